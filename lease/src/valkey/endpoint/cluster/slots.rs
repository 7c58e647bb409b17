//! `SlotMap`: which primary of a Cluster serves which slot.

use std::collections::BTreeSet;

use redis::{Cmd, Value};

use crate::valkey::UrlAddress;

/// How many slots a Cluster has; part of its protocol.
const SLOTS: u16 = 16_384;

/// Which primary serves which slot, as one node told it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SlotMap {
    /// First and last slot, and who serves them.
    ranges: Vec<(u16, u16, UrlAddress)>,
}

impl SlotMap {
    /// Reads the answer to `CLUSTER SLOTS` of the node that is reached as `host`.
    ///
    /// Entries that cannot be read, or whose node has no known address, are left out: their slots
    /// are served by nobody.
    pub(super) fn read(answer: &Value, host: &str) -> Self {
        let entries = match answer {
            Value::Array(entries) => entries.as_slice(),
            _ => &[],
        };
        let ranges = entries.iter().filter_map(|entry| match entry {
            Value::Array(entry) => match entry.as_slice() {
                [Value::Int(first), Value::Int(last), primary, ..] => {
                    let (first, last) = (slot(*first)?, slot(*last)?);
                    Some((first, last, address(primary, host)?))
                }
                _ => None,
            },
            _ => None,
        });
        Self {
            ranges: ranges.collect(),
        }
    }

    /// Returns who serves `slot`.
    pub(super) fn primary(&self, slot: u16) -> Option<&UrlAddress> {
        let mut ranges = self.ranges.iter();
        let range = ranges.find(|(first, last, _)| (*first..=*last).contains(&slot));
        range.map(|(_, _, primary)| primary)
    }

    /// Returns every primary once.
    pub(super) fn primaries(&self) -> BTreeSet<UrlAddress> {
        self.ranges.iter().map(|(_, _, at)| at.clone()).collect()
    }

    /// Says whether nothing is served.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Remembers that `slot` has moved to `primary`.
    pub(super) fn moved(&mut self, slot: u16, primary: UrlAddress) {
        // Found before the range that it contradicts.
        self.ranges
            .retain(|(first, last, _)| (*first, *last) != (slot, slot));
        self.ranges.insert(0, (slot, slot, primary));
    }
}

fn slot(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|slot| *slot < SLOTS)
}

/// Reads one node: `[endpoint, port, …]`. No endpoint means "the one you asked", `?` means that
/// nobody knows.
fn address(node: &Value, asked: &str) -> Option<UrlAddress> {
    let Value::Array(node) = node else {
        return None;
    };
    let host = match node.first()? {
        Value::Nil => String::new(),
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        _ => return None,
    };
    let Some(Value::Int(port)) = node.get(1) else {
        return None;
    };
    let port = u16::try_from(*port).ok()?;
    located(&host, port, asked)
}

/// Makes an address of what a node says, which may leave out the host: then it is `asked`.
pub(super) fn located(host: &str, port: u16, asked: &str) -> Option<UrlAddress> {
    let host = match host {
        "?" => return None,
        "" | "0.0.0.0" | "::" => asked,
        named => named,
    };
    (port != 0).then(|| UrlAddress::Tcp {
        host: host.to_owned(),
        port: Some(port),
    })
}

/// Returns the slot of `key`: of its first `{…}` alone if there is one and it is not empty.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM: polynomial 0x1021, from 0, no reflection.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 {
                shifted
            } else {
                shifted ^ 0x1021
            }
        })
    })
}

/// Returns the slot that `command` is about; `None` when it names no key.
///
/// Knows the commands of this crate: scripts name their keys after a count, some commands have
/// none, and for all others the first argument is a key or a shard channel.
pub(super) fn slot_of_command(command: &Cmd) -> Option<u16> {
    let mut arguments = command.args_iter().map(|argument| match argument {
        redis::Arg::Simple(bytes) => bytes,
        _ => &[],
    });
    let name = arguments.next()?.to_ascii_uppercase();
    match name.as_slice() {
        b"PING" | b"INFO" | b"SCRIPT" | b"ROLE" | b"TIME" | b"SCAN" | b"CLUSTER" | b"CLIENT" => {
            None
        }
        b"EVAL" | b"EVALSHA" => {
            let keys = arguments.nth(1)?;
            let key = arguments.next()?;
            (keys != b"0").then(|| slot_of(key))
        }
        _ => arguments.next().map(slot_of),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use redis::cmd;

    use super::*;

    fn tcp(host: &str, port: u16) -> UrlAddress {
        UrlAddress::Tcp {
            host: host.to_owned(),
            port: Some(port),
        }
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let id = text("07c37dfeb235213a872192d90877d0cd55635b91");
        let primary = Value::Array(vec![host, Value::Int(port), id]);
        let replica = Value::Array(vec![text("replica"), Value::Int(1), text("x")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), primary, replica])
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"{foo}bar"), slot_of(b"foo"));
        assert_eq!(slot_of(b"x{foo}{bar}"), slot_of(b"foo"));
        assert_eq!(slot_of(b"foo{}bar"), crc16(b"foo{}bar") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn the_map_names_primaries_alone() {
        let answer = Value::Array(vec![
            range(0, 5_460, text("a"), 1),
            range(5_461, 10_922, Value::Nil, 2),
            range(10_923, 16_000, text(""), 3),
            range(16_001, 16_100, text("?"), 4),
            range(16_101, 16_383, text("d"), 0),
        ]);
        let map = SlotMap::read(&answer, "asked");
        assert_eq!(map.primary(0), Some(&tcp("a", 1)));
        assert_eq!(map.primary(5_460), Some(&tcp("a", 1)));
        assert_eq!(map.primary(5_461), Some(&tcp("asked", 2)));
        assert_eq!(map.primary(16_000), Some(&tcp("asked", 3)));
        assert_eq!((map.primary(16_050), map.primary(16_200)), (None, None));
        let all = [tcp("a", 1), tcp("asked", 2), tcp("asked", 3)];
        assert_eq!(map.primaries(), BTreeSet::from(all));
    }

    #[test]
    fn a_moved_slot_moves_alone() {
        let answer = Value::Array(vec![range(0, 16_383, text("a"), 1)]);
        let mut map = SlotMap::read(&answer, "asked");
        map.moved(7, tcp("b", 2));
        map.moved(7, tcp("c", 3));
        assert_eq!(map.primary(7), Some(&tcp("c", 3)));
        assert_eq!(
            (map.primary(6), map.primary(8)),
            (Some(&tcp("a", 1)), Some(&tcp("a", 1)))
        );
        assert_eq!(map.primaries(), BTreeSet::from([tcp("a", 1), tcp("c", 3)]));
    }

    #[test]
    fn odd_answers_are_no_map() {
        let odd = [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Array(vec![Value::Int(0)])]),
            Value::Array(vec![range(-1, 5, text("a"), 1)]),
            Value::Array(vec![range(0, 16_384, text("a"), 1)]),
            Value::Array(vec![range(0, 5, Value::Int(1), 1)]),
            Value::Array(vec![range(0, 5, text("a"), 65_536)]),
        ];
        for answer in odd {
            assert!(SlotMap::read(&answer, "asked").is_empty(), "{answer:?}");
        }
    }

    #[test]
    fn commands_go_where_their_key_is() {
        let slot = Some(slot_of(b"k"));
        assert_eq!(slot_of_command(cmd("SET").arg("k").arg("v")), slot);
        assert_eq!(slot_of_command(cmd("spublish").arg("k").arg("m")), slot);
        assert_eq!(
            slot_of_command(cmd("EVALSHA").arg("h").arg(2).arg("k").arg("l")),
            slot
        );
        assert_eq!(slot_of_command(cmd("EVAL").arg("return 1").arg(0)), None);
        assert_eq!(
            slot_of_command(cmd("EVAL").arg("return 1").arg(0).arg("k")),
            None
        );
        assert_eq!(slot_of_command(&cmd("PING")), None);
        assert_eq!(slot_of_command(cmd("SCRIPT").arg("LOAD").arg("x")), None);
        assert_eq!(slot_of_command(&Cmd::new()), None);
    }

    proptest! {
        #[test]
        fn every_key_has_a_slot(key in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(slot_of(&key) < SLOTS);
        }
    }
}
