//! `Ring`: the nodes that share the keys, and which of them has which.

use std::sync::Arc;

use super::ops::Ops;
use super::placement::Placement;
use super::undo::UndoSender;
use crate::Fanout;
use crate::seldom::Seldom;

/// All nodes, in the order of the configuration; at least one.
#[derive(Debug)]
pub(crate) struct Ring {
    members: Vec<Member>,
    placement: Placement,
    /// For leases and payloads that this version cannot read.
    pub(crate) unreadable: Arc<Seldom>,
    /// For operations that fail.
    pub(crate) failures: Arc<Seldom>,
}

/// One node and what belongs to it alone.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) ops: Ops,
    /// The subscriptions of the keys that this node has.
    pub(crate) fanout: Fanout,
    /// Where to leave what has to be undone once the node answers again.
    pub(crate) undo: UndoSender,
}

impl Ring {
    pub(crate) fn new(members: Vec<Member>, unreadable: Seldom, failures: Seldom) -> Self {
        let names = members.iter().map(|member| member.ops.node.address());
        let placement = Placement::new(names);
        Self {
            members,
            placement,
            unreadable: Arc::new(unreadable),
            failures: Arc::new(failures),
        }
    }

    /// Returns the index of the node that has `key`.
    pub(crate) fn place(&self, key: &str) -> usize {
        self.placement.node_of(key)
    }

    /// Returns the node at `index`, which [`place`](Self::place) gave.
    pub(crate) fn member(&self, index: usize) -> &Member {
        &self.members[index.min(self.members.len() - 1)]
    }

    /// Returns the node that has `key`.
    pub(crate) fn of(&self, key: &str) -> &Member {
        self.member(self.place(key))
    }

    /// Returns all nodes.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }
}
