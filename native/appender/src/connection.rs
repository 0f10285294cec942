//! The journal's connection, which Python has opened, and the statements that append posts.

use std::ffi::{c_char, c_int};

use rusqlite::{Error, ffi, params};

use crate::{Failure, Post};

/// SQLite's result code for a fault of its own, used for one of ours.
pub(crate) const INTERNAL: i32 = ffi::SQLITE_INTERNAL;

/// OR ROLLBACK spares the statement its own rollback journal, a file in /tmp.
const INSERT: &str = "INSERT OR ROLLBACK INTO posts VALUES(?,?,?,?,?)";

/// A connection that somebody else has opened, and closes.
pub struct Connection(rusqlite::Connection);

impl Connection {
    /// Borrows a connection.
    ///
    /// # Errors
    ///
    /// If SQLite can't use it.
    ///
    /// # Safety
    ///
    /// `handle` is an open connection of the SQLite that called `extension_init`. While this exists, it stays open, and
    /// nobody else uses it.
    pub unsafe fn borrow(handle: usize) -> Result<Self, Failure> {
        // SAFETY: as above
        unsafe { rusqlite::Connection::from_handle(handle as *mut ffi::sqlite3) }.map(Self).map_err(failure)
    }

    /// Appends posts with their digests in one transaction. The first gets the number `first`.
    pub(crate) fn append<B: AsRef<[u8]>>(
        &self,
        first: i64,
        posts: &[&Post<B>],
        digests: &[[u8; 32]],
    ) -> Result<(), Failure> {
        self.transaction(first, posts, digests).map_err(|error| {
            if !self.0.is_autocommit() {
                let _ = self.0.execute_batch("ROLLBACK"); // its owner sees whether it worked
            }
            failure(error)
        })
    }

    fn transaction<B: AsRef<[u8]>>(&self, first: i64, posts: &[&Post<B>], digests: &[[u8; 32]]) -> Result<(), Error> {
        let several = posts.len() > 1;
        if several {
            self.0.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        }
        let mut insert = self.0.prepare_cached(INSERT)?;
        for ((seq, post), digest) in (first..).zip(posts).zip(digests) {
            insert.execute(params![seq, post.received, post.peer, digest, post.body.as_ref()])?;
        }
        if several {
            self.0.prepare_cached("COMMIT")?.execute([])?;
        }
        Ok(())
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::SqliteFailure(code, Some(message)) => (code.extended_code, message),
        Error::SqliteFailure(code, None) => (code.extended_code, code.to_string()),
        other => (INTERNAL, other.to_string()),
    }
}

/// The entry point of a loadable extension of SQLite, which gives this module the functions of the SQLite that loads it.
///
/// # Safety
///
/// As SQLite calls it.
pub unsafe fn extension_init(
    db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    api: *mut ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: as above
    unsafe { rusqlite::Connection::extension_init2(db, message, api, |_| Ok(true)) }
}
