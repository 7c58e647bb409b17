//! Listing: which keys of a kind there are, over all nodes, in order and in pages.
//!
//! A server can only be asked for all its keys in no order, so a page costs a walk over them. It is
//! for operators; no request does it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use redis::Value;

use super::act::Act;
use super::endpoint::CommandConnection;
use super::keys::KeyKind;
use super::ops::Ops;
use super::ring::Ring;
use crate::{LeaseError, timeout};

/// Keys that one step of the walk looks at.
const STEP: usize = 1_000;
/// Most steps of one walk on one server: ten million keys.
const STEPS_MAX: usize = 10_000;
/// How long one listing may take in all.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// Which keys to list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) kind: KeyKind,
    /// What their text begins with, literal.
    pub(crate) prefix: &'a str,
    /// What their text has in it, literal.
    pub(crate) contains: &'a str,
    /// Only texts after this one.
    pub(crate) after: Option<&'a str>,
    /// The most to return: the first ones in order.
    pub(crate) limit: usize,
}

impl Wanted<'_> {
    fn wants(&self, text: &str) -> bool {
        text.starts_with(self.prefix)
            && text.contains(self.contains)
            && self.after.is_none_or(|after| text > after)
    }
}

/// Returns the texts behind the wanted keys, in the order of their bytes.
///
/// Where several nodes share the keys, what those have that answer is returned, with a line in the
/// log for those that do not.
pub(crate) async fn texts(
    ring: &Ring,
    act: Act<'_>,
    wanted: Wanted<'_>,
) -> Result<Vec<String>, LeaseError> {
    let members = ring.members();
    let walks = members.iter().map(|member| walk(&member.ops, act, wanted));
    let clock = members[0].ops.node.clock();
    let walks = timeout(&**clock, LIST_TIMEOUT, join_all(walks)).await;
    let walks =
        walks.ok_or_else(|| act.unavailable(format!("not done within {LIST_TIMEOUT:?}")))?;
    let (mut texts, mut failed, mut answered) = (BTreeSet::new(), None, false);
    for walk in walks {
        match walk {
            Ok(found) => {
                answered = true;
                texts.extend(found);
            }
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        if !answered {
            return Err(error);
        }
        if let Some(held_back) = ring.failures.due() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                held_back,
                "a listing lacks what the nodes have that do not answer",
            );
        }
    }
    Ok(texts.into_iter().take(wanted.limit).collect())
}

async fn walk(ops: &Ops, act: Act<'_>, wanted: Wanted<'_>) -> Result<BTreeSet<String>, LeaseError> {
    let mut texts = BTreeSet::new();
    for mut primary in ops.node.primaries(act).await? {
        walk_one(ops, act, wanted, &mut primary, &mut texts).await?;
    }
    Ok(texts)
}

async fn walk_one(
    ops: &Ops,
    act: Act<'_>,
    wanted: Wanted<'_>,
    primary: &mut CommandConnection,
    texts: &mut BTreeSet<String>,
) -> Result<(), LeaseError> {
    let pattern = ops
        .keys
        .pattern(wanted.kind, wanted.prefix, wanted.contains);
    let mut cursor = "0".to_owned();
    for _ in 0..STEPS_MAX {
        let mut scan = redis::cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(&pattern);
        scan.arg("COUNT").arg(STEP);
        let answer = ops.node.send_to(act, primary, &scan).await?;
        let Value::Array(answer) = answer else {
            return Err(ops.node.nonsense(act, "no list"));
        };
        let mut answer = answer.into_iter();
        let (Some(next), Some(Value::Array(names))) = (answer.next(), answer.next()) else {
            return Err(ops.node.nonsense(act, "no cursor and names"));
        };
        let next = ops.bytes(act, next)?;
        for name in names {
            let Value::BulkString(name) = name else {
                continue;
            };
            // What is no text was not written by us.
            let Ok(name) = std::str::from_utf8(&name) else {
                continue;
            };
            if let Some(text) = ops.keys.text(wanted.kind, name)
                && wanted.wants(text)
            {
                texts.insert(text.to_owned());
                if texts.len() > wanted.limit {
                    texts.pop_last();
                }
            }
        }
        if next == b"0" {
            return Ok(());
        }
        cursor = String::from_utf8(next).map_err(|_| ops.node.nonsense(act, "no cursor"))?;
    }
    let keys = STEPS_MAX * STEP;
    Err(act.unavailable(format!("the server has more than {keys} keys")))
}
