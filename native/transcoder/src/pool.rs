//! Reuses the memory of records: page faults in fresh memory cost more than mapping a post.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The size in bytes of all free buffers together.
const MAX_FREE: usize = 32 << 20;
/// The size in bytes of the largest buffer to keep.
const MAX_BUFFER: usize = MAX_FREE / 4;
/// How many bytes a buffer may be larger than wanted, in addition to a quarter. Smaller buffers are not kept at all.
const SLACK: usize = 1 << 16;

/// Free buffers. Their bytes are initialized, with arbitrary content.
#[derive(Default)]
pub struct Pool {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// Returns a buffer of at least `size` bytes, and not of many more.
    #[must_use]
    pub fn take(&self, size: usize) -> Vec<u8> {
        let mut free = self.lock();
        let fits = |buffer: &Vec<u8>| (size..=max_size(size)).contains(&buffer.len());
        match free.iter().rposition(fits) {
            Some(index) => free.swap_remove(index),
            None => {
                drop(free);
                vec![0; size + size / 8]
            }
        }
    }

    /// Takes a buffer back.
    pub fn give_back(&self, buffer: Vec<u8>) {
        if !(SLACK..=MAX_BUFFER).contains(&buffer.len()) {
            return; // small ones are cheap to allocate
        }
        let mut free = self.lock();
        free.push(buffer);
        let mut size: usize = free.iter().map(Vec::len).sum();
        while size > MAX_FREE {
            size -= free.remove(0).len();
        }
    }

    /// Returns the first `length` bytes of `buffer` in a buffer that is not much larger.
    #[must_use]
    pub fn shrink(&self, buffer: Vec<u8>, length: usize) -> Vec<u8> {
        if buffer.len() <= max_size(length) {
            return buffer;
        }
        let shrunk = buffer[..length].to_vec();
        self.give_back(buffer);
        shrunk
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The largest buffer to use where `size` bytes are wanted.
fn max_size(size: usize) -> usize {
    size + size / 4 + SLACK
}
