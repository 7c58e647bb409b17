//! The fleet's name, as its requests say it.

use std::sync::{PoisonError, RwLock};

use storage::Via;
use uuid::Uuid;

/// How many names are known as our own: this process's, the fleet's, and the one before.
const NAMES_MAX: usize = 3;

/// The fleet's name in the `Via` header, by which it knows requests that come back to it.
///
/// An operator sets it (`fleet.id`), or the instances of a Valkey agree on it, after requests
/// have been made already: until then, and without Valkey, it is a random one of this process.
/// Names that were ours once stay ours, or a request that is under way would not be known.
#[derive(Debug)]
pub struct FleetName {
    via: Via,
    is_set: bool,
    /// The name in force first.
    ids: RwLock<Vec<String>>,
}

impl FleetName {
    /// Makes the name that `id` sets, or a random one.
    pub fn new(id: Option<&str>) -> Self {
        let is_set = id.is_some();
        let id = id.map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned);
        Self {
            via: Via::new(&field(&id)).expect("an id is letters, digits and . - _"),
            is_set,
            ids: RwLock::new(vec![id]),
        }
    }

    /// Takes the name that the fleet agreed on; what an operator set stays.
    pub fn agree(&self, id: &str) {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        if self.is_set || ids.first().is_some_and(|known| known == id) {
            return;
        }
        if self.via.set(&field(id)).is_err() {
            return;
        }
        ids.retain(|known| known != id);
        // The last one is this process's own; of the fleet's, the one before stays.
        if ids.len() == NAMES_MAX {
            ids.remove(1);
        }
        ids.insert(0, id.to_owned());
    }

    /// The name in force.
    pub fn id(&self) -> String {
        let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
        ids.first().cloned().unwrap_or_default()
    }

    /// The field for our own requests; it follows the name.
    pub fn via(&self) -> Via {
        self.via.clone()
    }

    /// Tells whether `pseudonym`, a word of somebody's `Via`, is one of ours.
    pub fn is_ours(&self, pseudonym: &str) -> bool {
        let Some(id) = pseudonym.strip_prefix("corral/") else {
            return false;
        };
        let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
        ids.iter().any(|known| known == id)
    }
}

fn field(id: &str) -> String {
    format!("1.1 corral/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agreed_name_joins_the_ones_that_are_ours() {
        let name = FleetName::new(None);
        let own = name.id();
        assert!(name.is_ours(&format!("corral/{own}")));
        assert!(!name.is_ours(&own) && !name.is_ours("corral/") && !name.is_ours("corral/a"));
        for id in ["a", "a", "b", "two\nlines", "c"] {
            name.agree(id);
        }
        assert_eq!(name.id(), "c");
        for (id, ours) in [(own.as_str(), true), ("a", false), ("b", true), ("c", true)] {
            assert_eq!(name.is_ours(&format!("corral/{id}")), ours, "{id}");
        }
        name.agree("b");
        assert_eq!(name.id(), "b");
        assert!(name.is_ours("corral/c") && name.is_ours(&format!("corral/{own}")));
    }

    #[test]
    fn what_an_operator_set_stays() {
        let name = FleetName::new(Some("ci"));
        name.agree("a");
        assert_eq!(name.id(), "ci");
        assert!(!name.is_ours("corral/a"));
    }
}
