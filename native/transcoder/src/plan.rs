//! What all occurrences of a business transaction share, compiled once and cached.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::table::{Encoding, RecordField, Table};

/// The size in bytes of all cached plans. The cache is cleared when it is full, since senders choose how many transactions
/// there are.
const MAX_CACHE_SIZE: usize = 64 << 20;
/// The approximate size in bytes of a plan without its names.
const PLAN_SIZE: usize = 1 << 11;

/// The lists of an occurrence. The business transaction names their elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The measures.
    Values,
    /// The dimensions.
    Dimensions,
}

/// What Python compiles from a business transaction.
pub struct Compiled<P> {
    /// Python's plan, which is returned with the records.
    pub python: P,
    /// The event category.
    pub category: usize,
    /// What every record has after the value of `event.id`, from the closing quote on.
    pub tail: Vec<u8>,
    /// The number of names and other texts that are not UTF-8.
    pub invalid_utf8: u64,
    /// The record fields of the measures and dimensions that have names.
    pub names: [Vec<String>; 2],
}

/// Compiles business transactions. Implemented by calls to Python.
pub trait Compiler {
    /// Python's plan.
    type Plan: Send + Sync;
    /// The error of a failed call.
    type Error;

    /// Compiles a business transaction.
    ///
    /// - `server`: the server name in the post.
    /// - `shared`: the encoded business transaction, without occurrences and unknown fields.
    fn compile(&self, server: Option<&[u8]>, shared: &[u8]) -> Result<Compiled<Self::Plan>, Self::Error>;

    /// Returns the record fields of `count` measures or dimensions. Those that the plan names come first.
    fn names(&self, plan: &Self::Plan, list: List, count: usize) -> Result<Vec<String>, Self::Error>;
}

/// How to write an element of a list.
#[derive(Clone)]
pub struct ListField {
    /// How to write the value.
    pub field: RecordField,
    /// Whether the settings drop the field.
    pub dropped: bool,
}

/// A compiled business transaction.
pub struct Plan<P> {
    /// Python's plan.
    pub python: P,
    /// The event category.
    pub category: usize,
    /// What every record has after the value of `event.id`, from the closing quote on.
    pub tail: Vec<u8>,
    /// The number of names and other texts that are not UTF-8.
    pub invalid_utf8: u64,
    /// How many measures and dimensions have names.
    pub named: [usize; 2],
    lists: [RwLock<Arc<[ListField]>>; 2],
}

impl<P> Plan<P> {
    fn new(table: &Table, compiled: Compiled<P>) -> Self {
        let Compiled { python, category, tail, invalid_utf8, names: [values, dimensions] } = compiled;
        let named = [values.len(), dimensions.len()];
        let lists = [list_fields(table, List::Values, values), list_fields(table, List::Dimensions, dimensions)];
        Self { python, category, tail, invalid_utf8, named, lists: lists.map(RwLock::new) }
    }

    /// Returns the cached fields of a list: at least those with names.
    pub fn list(&self, list: List) -> Arc<[ListField]> {
        Arc::clone(&self.lists[list as usize].read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns at least `count` fields of a list. Caches them unless they are many more than those with names.
    pub fn longer_list<C: Compiler<Plan = P>>(
        &self,
        table: &Table,
        compiler: &C,
        list: List,
        count: usize,
    ) -> Result<Arc<[ListField]>, C::Error> {
        let fields = list_fields(table, list, compiler.names(&self.python, list, count.next_power_of_two())?);
        if fields.len() <= 2 * self.named[list as usize] + 16 {
            let cached = &self.lists[list as usize];
            *cached.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fields);
        }
        Ok(fields)
    }

    /// The approximate size in memory, with room for lists that grow.
    fn memory_size(&self) -> usize {
        let lists = [self.list(List::Values), self.list(List::Dimensions)];
        let fields = lists.iter().flat_map(|fields| fields.iter());
        let size = |element: &ListField| size_of::<ListField>() + element.field.key.memory_size();
        PLAN_SIZE + self.tail.len() + 3 * fields.map(size).sum::<usize>()
    }
}

fn list_fields(table: &Table, list: List, names: Vec<String>) -> Arc<[ListField]> {
    let encoding = if list == List::Values { Encoding::Measures } else { Encoding::Dimensions };
    let list_field = |name: String| ListField {
        field: table.record_field(&name, encoding),
        dropped: table.settings.drop.contains(&name),
    };
    names.into_iter().map(list_field).collect()
}

/// Caches plans by the bytes that they were compiled from.
pub struct Cache<P> {
    content: RwLock<Content<P>>,
}

struct Content<P> {
    plans: HashMap<Box<[u8]>, Arc<Plan<P>>>,
    size: usize,
}

impl<P> Default for Cache<P> {
    fn default() -> Self {
        Self { content: RwLock::new(Content { plans: HashMap::new(), size: 0 }) }
    }
}

impl<P: Send + Sync> Cache<P> {
    /// Returns the plan of a business transaction. `server` and `shared`: see `Compiler`. `key` is overwritten.
    pub fn get<C: Compiler<Plan = P>>(
        &self,
        table: &Table,
        compiler: &C,
        server: Option<&[u8]>,
        shared: &[u8],
        key: &mut Vec<u8>,
    ) -> Result<Arc<Plan<P>>, C::Error> {
        key.clear();
        key.extend_from_slice(&server.map_or(usize::MAX, <[u8]>::len).to_le_bytes());
        key.extend_from_slice(server.unwrap_or_default());
        key.extend_from_slice(shared);
        let cached = self.content.read().unwrap_or_else(PoisonError::into_inner).plans.get(key.as_slice()).cloned();
        if let Some(plan) = cached {
            return Ok(plan);
        }
        let plan = Arc::new(Plan::new(table, compiler.compile(server, shared)?)); // without the lock: Python may take long
        let size = plan.memory_size() + key.len();
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        content.size += size;
        if content.size > MAX_CACHE_SIZE {
            content.plans.clear();
            content.size = size;
        }
        content.plans.insert(key.as_slice().into(), Arc::clone(&plan));
        Ok(plan)
    }
}
