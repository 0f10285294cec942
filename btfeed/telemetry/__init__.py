"""What btfeed tells about itself: metrics, the status of each sink, logs."""
