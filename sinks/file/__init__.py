"""The file sink. Read sink, then open_file (the file being written) and encoding (from a batch to the bytes in a file)."""

from sinks.file.names import is_file_of as is_file_of
from sinks.file.sink import SINK as SINK
from sinks.file.sink import FileSettings as FileSettings
from sinks.file.sink import FileSink as FileSink
