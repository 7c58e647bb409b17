//! The Lua scripts: what compares and changes in one step.
//!
//! Each takes a lease for the caller's own when its value names the caller's token. The needle
//! `"token":"<uuid>"` cannot occur in another field's text, where JSON escapes the quotes. `lease`
//! is always `KEYS[1]`; the answer is a whole number, or as said.

use redis::{Cmd, Script};

/// One script and its hash, ready to be called.
#[derive(Debug)]
pub(crate) struct LeaseScript {
    code: String,
    hash: String,
}

/// All scripts of one node.
#[derive(Debug)]
pub(crate) struct Scripts {
    /// `lease`, `progress` → value, milliseconds left, progress, milliseconds left of that.
    pub(crate) describe: LeaseScript,
    /// `lease`, `progress`, `forced`; token, ttl, progress → 1 renewed, 0 lost, -1 forced.
    pub(crate) renew: LeaseScript,
    /// `lease`, `progress`; token, channel, event → as [`ENDED`] says.
    pub(crate) release: LeaseScript,
    /// `lease`, `progress`, `forced`; token, channel, event, mark's ttl → as [`ENDED`] says.
    pub(crate) force: LeaseScript,
    /// `lease`, `progress`, `takeover`; token, channel, event, ttl → as [`ENDED`] says, or -2 when
    /// the key was taken over within that time.
    pub(crate) take_over: LeaseScript,
    /// `record` → value, milliseconds left.
    pub(crate) read: LeaseScript,
}

/// What ends a lease answers: 1 ended and published, 2 ended but not published, 0 nobody holds it,
/// -1 another grant is in force.
pub(crate) const ENDED: i64 = 1;
/// See [`ENDED`].
pub(crate) const ENDED_UNTOLD: i64 = 2;
/// See [`ENDED`].
pub(crate) const GONE: i64 = 0;
/// See [`ENDED`].
pub(crate) const MOVED: i64 = -1;
/// See [`Scripts::take_over`].
pub(crate) const REFUSED: i64 = -2;

const DESCRIBE: &str = "\
local v = redis.call('GET', KEYS[1])
if not v then return {false, 0, false, 0} end
return {v, redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[2]), redis.call('PTTL', KEYS[2])}";

const RENEW: &str = "\
local v = redis.call('GET', KEYS[1])
if v and string.find(v, '\"token\":\"' .. ARGV[1] .. '\"', 1, true) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
  return 1
end
return -redis.call('EXISTS', KEYS[3])";

/// Stands before what follows only for the holder of the token.
const IF_MINE: &str = "\
local v = redis.call('GET', KEYS[1])
if not v then return 0 end
if not string.find(v, '\"token\":\"' .. ARGV[1] .. '\"', 1, true) then return -1 end
";

/// Frees and tells. A publication that fails (an ACL may forbid it) must not look like a release
/// that did: the lease is free by then.
const FREE: &str = "\
redis.call('DEL', KEYS[1], KEYS[2])
local told = redis.pcall('@PUBLISH', ARGV[2], ARGV[3])
if type(told) == 'table' and told.err then return 2 end
return 1";

const MARK_FORCED: &str = "redis.call('SET', KEYS[3], '1', 'PX', ARGV[4])\n";

const ONCE: &str =
    "if not redis.call('SET', KEYS[3], ARGV[1], 'NX', 'PX', ARGV[4]) then return -2 end\n";

const READ: &str = "\
local v = redis.call('GET', KEYS[1])
if not v then return {false, 0} end
return {v, redis.call('PTTL', KEYS[1])}";

impl Scripts {
    /// Makes the scripts; in a Cluster they publish on the shard's channel.
    pub(crate) fn new(cluster: bool) -> Self {
        let publish = publish_command(cluster);
        let script = |parts: &[&str]| LeaseScript::new(parts.concat().replace("@PUBLISH", publish));
        Self {
            describe: script(&[DESCRIBE]),
            renew: script(&[RENEW]),
            release: script(&[IF_MINE, FREE]),
            force: script(&[IF_MINE, MARK_FORCED, FREE]),
            take_over: script(&[IF_MINE, ONCE, FREE]),
            read: script(&[READ]),
        }
    }

    /// Returns every script, to be loaded ahead of its first use.
    pub(crate) fn all(&self) -> [&LeaseScript; 6] {
        [
            &self.describe,
            &self.renew,
            &self.release,
            &self.force,
            &self.take_over,
            &self.read,
        ]
    }
}

/// Returns the command that publishes a release event.
pub(crate) fn publish_command(cluster: bool) -> &'static str {
    if cluster { "SPUBLISH" } else { "PUBLISH" }
}

impl LeaseScript {
    pub(crate) fn new(code: String) -> Self {
        let hash = Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }

    /// Returns the script's text.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// Returns the call by hash, which a server that does not know the script answers `NOSCRIPT`.
    pub(crate) fn by_hash(&self, keys: &[&str], args: &[&str]) -> Cmd {
        call("EVALSHA", &self.hash, keys, args)
    }

    /// Returns the call by text, which also makes the server remember it.
    pub(crate) fn by_text(&self, keys: &[&str], args: &[&str]) -> Cmd {
        call("EVAL", &self.code, keys, args)
    }
}

fn call(command: &str, script: &str, keys: &[&str], args: &[&str]) -> Cmd {
    let bytes = |texts: &[&str]| texts.iter().map(|text| text.len()).sum::<usize>();
    let size = command.len() + script.len() + bytes(keys) + bytes(args) + 4;
    let mut cmd = Cmd::with_capacity(keys.len() + args.len() + 3, size);
    cmd.arg(command).arg(script).arg(keys.len());
    for text in keys.iter().chain(args) {
        cmd.arg(*text);
    }
    cmd
}
