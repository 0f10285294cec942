//! Memory for records, which is used again: to take fresh pages from the system for each post costs more than to map it.

use std::sync::Mutex;

/// Bytes that wait here to be used again, at most.
const KEPT: usize = 32 << 20;
/// Bytes of one that waits, at most.
const LARGEST: usize = KEPT / 4;
/// Bytes that a buffer may have beyond what it needs.
const SPARE: usize = 1 << 16;

/// Buffers that nobody uses. All bytes of a buffer are initialised, whatever they say.
#[derive(Default)]
pub struct Pool {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// A buffer of `wanted` bytes at least, and not of many more.
    #[must_use]
    pub fn take(&self, wanted: usize) -> Vec<u8> {
        let mut free = self.free.lock().unwrap_or_else(|broken| broken.into_inner());
        let fitting = |buffer: &Vec<u8>| (wanted..=most(wanted)).contains(&buffer.len());
        match free.iter().rposition(fitting) {
            Some(place) => free.swap_remove(place),
            None => {
                drop(free);
                vec![0; wanted + wanted / 8]
            }
        }
    }

    /// Gives a buffer back.
    pub fn give(&self, buffer: Vec<u8>) {
        if !(SPARE..=LARGEST).contains(&buffer.len()) {
            return; // what is small costs nothing to get
        }
        let mut free = self.free.lock().unwrap_or_else(|broken| broken.into_inner());
        free.push(buffer);
        let mut kept: usize = free.iter().map(Vec::len).sum();
        while kept > KEPT {
            kept -= free.remove(0).len();
        }
    }

    /// The first `length` bytes of `buffer`, in a buffer that is not much larger.
    #[must_use]
    pub fn fit(&self, buffer: Vec<u8>, length: usize) -> Vec<u8> {
        if buffer.len() <= most(length) {
            return buffer;
        }
        let fitting = buffer[..length].to_vec();
        self.give(buffer);
        fitting
    }
}

/// Bytes of a buffer for `wanted` of them, at most.
fn most(wanted: usize) -> usize {
    wanted + wanted / 4 + SPARE
}
