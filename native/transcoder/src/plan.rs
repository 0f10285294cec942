//! What all occurrences of a business transaction share, and where it is kept from one post to the next.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use crate::table::{Encoding, Step, Table};

/// Bytes that plans may take up; past that the cache starts anew, since senders choose how many there are.
const ROOM: usize = 64 << 20;
/// Bytes that a plan takes up beside its names, about.
const ALONE: usize = 1 << 11;

/// Values and dimensions: both are lists, and users name what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The measures.
    Values,
    /// The dimensions.
    Dimensions,
}

/// What Python compiles of a business transaction.
pub struct Source<P> {
    /// Python's own plan, which comes back with the result.
    pub python: P,
    /// Its `event.category`.
    pub category: usize,
    /// What stands behind event.id in every record, from its closing quote on.
    pub tail: Vec<u8>,
    /// Names and other texts of it that are not UTF-8.
    pub invalid_utf8: u64,
    /// Record fields of the values and dimensions that it names.
    pub names: [Vec<String>; 2],
}

/// Compiles business transactions, in Python.
pub trait Compiler {
    /// Python's own plan.
    type Plan: Send + Sync;
    /// What Python raised.
    type Error;

    /// Compiles a transaction. `server`: what the post calls the server. `head`: the wire of all that is known but the
    /// occurrences.
    fn compile(&self, server: Option<&[u8]>, head: &[u8]) -> Result<Source<Self::Plan>, Self::Error>;

    /// Record fields for `count` values or dimensions, of which the first have the plan's names.
    fn names(&self, plan: &Self::Plan, list: List, count: usize) -> Result<Vec<String>, Self::Error>;
}

/// A place in a list, as a record writes it.
#[derive(Clone)]
pub struct Place {
    /// How its value is written.
    pub step: Step,
    /// No record has it.
    pub dropped: bool,
}

/// A compiled business transaction.
pub struct Plan<P> {
    /// Python's own plan.
    pub python: P,
    /// Its `event.category`.
    pub category: usize,
    /// What stands behind event.id in every record.
    pub tail: Vec<u8>,
    /// Names and other texts of it that are not UTF-8.
    pub invalid_utf8: u64,
    /// How many values and dimensions it names.
    pub named: [usize; 2],
    places: [RwLock<Arc<[Place]>>; 2],
}

impl<P> Plan<P> {
    fn new(table: &Table, source: Source<P>) -> Self {
        let named = [source.names[0].len(), source.names[1].len()];
        let [values, dimensions] = source.names;
        Self {
            python: source.python,
            category: source.category,
            tail: source.tail,
            invalid_utf8: source.invalid_utf8,
            named,
            places: [
                RwLock::new(places(table, List::Values, values)),
                RwLock::new(places(table, List::Dimensions, dimensions)),
            ],
        }
    }

    /// As many places of a list as are known, the named ones at least.
    pub fn places(&self, list: List) -> Arc<[Place]> {
        Arc::clone(&self.places[list as usize].read().unwrap_or_else(|broken| broken.into_inner()))
    }

    /// At least `count` places of a list. Few more than are named are kept for the next post.
    pub fn more_places<C: Compiler<Plan = P>>(
        &self,
        table: &Table,
        compiler: &C,
        list: List,
        count: usize,
    ) -> Result<Arc<[Place]>, C::Error> {
        let found = places(table, list, compiler.names(&self.python, list, count.next_power_of_two())?);
        if found.len() <= 2 * self.named[list as usize] + 16 {
            let kept = &self.places[list as usize];
            *kept.write().unwrap_or_else(|broken| broken.into_inner()) = Arc::clone(&found);
        }
        Ok(found)
    }

    fn weight(&self) -> usize {
        let places = [self.places(List::Values), self.places(List::Dimensions)];
        let names = places.iter().flat_map(|places| places.iter());
        ALONE + self.tail.len() + 3 * names.map(|place| size_of::<Place>() + place.step.key.weight()).sum::<usize>()
    }
}

fn places(table: &Table, list: List, names: Vec<String>) -> Arc<[Place]> {
    let encoding = if list == List::Values { Encoding::Measures } else { Encoding::Dimensions };
    let place = |name: String| Place { step: table.step(&name, encoding), dropped: table.settings.drop.contains(&name) };
    names.into_iter().map(place).collect()
}

/// Compiled plans, by the wire that they were compiled from.
pub struct Plans<P> {
    kept: RwLock<Kept<P>>,
}

struct Kept<P> {
    plans: HashMap<Box<[u8]>, Arc<Plan<P>>>,
    weight: usize,
}

impl<P> Default for Plans<P> {
    fn default() -> Self {
        Self { kept: RwLock::new(Kept { plans: HashMap::new(), weight: 0 }) }
    }
}

impl<P: Send + Sync> Plans<P> {
    /// The plan of a transaction. `key` is scratch.
    pub fn get<C: Compiler<Plan = P>>(
        &self,
        table: &Table,
        compiler: &C,
        server: Option<&[u8]>,
        head: &[u8],
        key: &mut Vec<u8>,
    ) -> Result<Arc<Plan<P>>, C::Error> {
        key.clear();
        key.extend_from_slice(&server.map_or(usize::MAX, <[u8]>::len).to_le_bytes());
        key.extend_from_slice(server.unwrap_or_default());
        key.extend_from_slice(head);
        let known = self.kept.read().unwrap_or_else(|broken| broken.into_inner()).plans.get(key.as_slice()).cloned();
        if let Some(plan) = known {
            return Ok(plan);
        }
        let plan = Arc::new(Plan::new(table, compiler.compile(server, head)?)); // Python may wait here: no lock is held
        let weight = plan.weight() + key.len();
        let mut kept = self.kept.write().unwrap_or_else(|broken| broken.into_inner());
        kept.weight += weight;
        if kept.weight > ROOM {
            kept.plans.clear();
            kept.weight = weight;
        }
        kept.plans.insert(key.as_slice().into(), Arc::clone(&plan));
        Ok(plan)
    }
}
