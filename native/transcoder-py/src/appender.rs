//! Exposes the crate `appender`: the thread that appends posts to the SQLite journal.

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use appender::{Connection, Failure, Loan, NotAppended, Post, ffi};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

/// A post as Python gives it: body, milliseconds since the epoch, peer, bytes that it takes.
type Given = (PyBackedBytes, i64, String, i64);
/// A group that is durable: the number of its first post, all digests, and the seconds of its transaction.
type Appended<'py> = (i64, Vec<Bound<'py, PyBytes>>, Option<f64>);

/// Appends posts on a thread of its own.
#[pyclass(frozen)]
pub struct Appender(appender::Appender<PyBackedBytes>);

#[pymethods]
impl Appender {
    /// Takes the writing end of a pipe, and the seconds that a transaction waits at most. The thread writes to the pipe when
    /// there is something to take.
    #[new]
    fn new(signal: i32, longest: f64) -> PyResult<Self> {
        // SAFETY: the caller gives it away
        let signal = File::from(unsafe { OwnedFd::from_raw_fd(signal) });
        let tell = move || {
            let _ = (&signal).write(&[0]); // if it is full, the reader knows already
        };
        Ok(Self(appender::Appender::start(Duration::try_from_secs_f64(longest).unwrap_or(Duration::MAX), tell)?))
    }

    fn append(&self, posts: Vec<Given>) {
        let to_post = |(body, received, peer, size)| Post { body, received, peer, size };
        self.0.append(posts.into_iter().map(to_post).collect());
    }

    /// What became of groups, in their order: appended, failed, or neither if it was not tried.
    fn take<'py>(&self, py: Python<'py>) -> Vec<(Option<Appended<'py>>, Option<Failure>)> {
        let to_python = |done: appender::Done<PyBackedBytes>| match done.outcome {
            Ok(it) => {
                let digests = it.digests.iter().map(|digest| PyBytes::new(py, digest)).collect();
                (Some((it.first, digests, it.seconds)), None)
            }
            Err(NotAppended::Failed(failure)) => (None, Some(failure)),
            Err(NotAppended::Left) => (None, None),
        };
        self.0.take().into_iter().map(to_python).collect()
    }

    /// Lends a connection, which nobody may use or close until `reclaim` has returned.
    fn lend(&self, handle: usize, next: i64, room: i64, slack: i64) -> PyResult<()> {
        // SAFETY: the caller keeps the promise above, and has loaded `btfeed_sqlite_init`
        let connection = unsafe { Connection::borrow(handle) };
        let connection = connection.map_err(|(_, message)| PyRuntimeError::new_err(message))?;
        self.0.lend(Loan { connection, next, room, slack });
        Ok(())
    }

    /// The number of the next post and the room that is left, or None if nothing was lent.
    fn reclaim(&self, py: Python<'_>) -> Option<(i64, i64)> {
        py.detach(|| self.0.reclaim().map(|loan| (loan.next, loan.room)))
    }

    fn refuse(&self) {
        self.0.refuse();
    }

    fn end(&self, py: Python<'_>) {
        py.detach(|| self.0.end());
    }
}

/// The entry point with which SQLite loads this module as an extension.
///
/// # Safety
///
/// As SQLite calls it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn btfeed_sqlite_init(
    db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    api: *mut ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: as above
    unsafe { appender::extension_init(db, message, api) }
}
