//! The queue's Lua scripts. Each is one step of a job's life, by the server's clock.
//!
//! All get the same keys, in the order of [`PARTS`], which lie in one slot. What a script needs to
//! know of a job stands in `state`, one line per field: serial, created, pushed, deadline, attempts,
//! token, kind, worker, owner, and the serial and time of a push that came while somebody works on
//! it. The token of the last taking stays there until it is settled or another worker takes the
//! job, so that a late receipt is good as long as it can be. Should the server have evicted some of
//! the keys, a job that is in `state` counts as one that is due, and one that is not there is
//! cleared away when it is met.

use crate::valkey::scripts::LeaseScript;

/// The parts of the queue, each a key.
pub(super) const PARTS: [&str; 7] = ["jobs", "state", "errors", "due", "taken", "dead", "done"];

/// The queue's scripts; the arguments stand above each text.
#[derive(Debug)]
pub(super) struct QueueScripts {
    pub(super) push: LeaseScript,
    pub(super) take: LeaseScript,
    pub(super) extend: LeaseScript,
    pub(super) ack: LeaseScript,
    pub(super) retry: LeaseScript,
    pub(super) bury: LeaseScript,
    pub(super) next_due: LeaseScript,
    pub(super) stats: LeaseScript,
    pub(super) ids: LeaseScript,
    pub(super) describe: LeaseScript,
    pub(super) run_now: LeaseScript,
    pub(super) drop_job: LeaseScript,
    pub(super) requeue: LeaseScript,
    pub(super) review: LeaseScript,
    pub(super) restore: LeaseScript,
    pub(super) finish: LeaseScript,
}

/// Stands before every script. `TTL` is how long the keys outlive the last change; they are
/// extended when half of that has passed.
const PRELUDE: &str = "\
local JOBS, STATE, ERRORS, DUE = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local TAKEN, DEAD, DONE = KEYS[5], KEYS[6], KEYS[7]
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local NUMBER, TEXT = '(%d+)\\n', '([^\\n]*)\\n'
local HEX = string.rep('%x', 4)
local UUID = '(' .. HEX .. string.rep(HEX .. '%-', 4) .. string.rep(HEX, 3) .. ')\\n'
local LINES = '^' .. UUID .. string.rep(NUMBER, 4) .. string.rep(TEXT, 5) .. NUMBER .. '$'
local function read(id)
  local serial, created, pushed, deadline, attempts, token, kind, worker, owner, later, later_pushed =
    string.match(call('HGET', STATE, id) or '', LINES)
  if not serial then return nil end
  return {serial = serial, created = tonumber(created), pushed = tonumber(pushed),
    deadline = tonumber(deadline), attempts = tonumber(attempts), token = token, kind = kind,
    worker = worker, owner = owner, later = later, later_pushed = tonumber(later_pushed)}
end
local function write(id, j)
  local number = function(n) return string.format('%.0f', math.max(n, 0)) end
  call('HSET', STATE, id, table.concat({j.serial, number(j.created), number(j.pushed),
    number(j.deadline), number(j.attempts), j.token, j.kind, j.worker, j.owner,
    j.later or '', number(j.later_pushed or 0), ''}, '\\n'))
end
local function where(id)
  local at = call('ZSCORE', DUE, id)
  if at then return 'q', tonumber(at) end
  at = call('ZSCORE', TAKEN, id)
  if at then
    at = tonumber(at)
    if at <= now then return 'q', at end
    return 't', at
  end
  at = call('ZSCORE', DEAD, id)
  if at then return 'd', tonumber(at) end
  return 'q', now
end
local function place(id, key, at)
  for _, other in ipairs({DUE, TAKEN, DEAD}) do
    if other ~= key then call('ZREM', other, id) end
  end
  if key then call('ZADD', key, at, id) end
end
local function over(serial)
  if serial ~= '' then call('ZADD', DONE, now, serial) end
end
local function remove(id, j)
  call('HDEL', JOBS, id)
  call('HDEL', STATE, id)
  call('HDEL', ERRORS, id)
  place(id)
  if j then
    over(j.serial)
    over(j.later)
  end
end
local function trim(key, max, drop)
  local over = call('ZCARD', key) - max
  if over <= 0 then return 0 end
  for _, id in ipairs(call('ZRANGE', key, 0, over - 1)) do drop(id) end
  return over
end
local function trim_done()
  call('ZREMRANGEBYSCORE', DONE, '-inf', now - @DONE_TTL)
  trim(DONE, @DONE_MAX, function(serial) call('ZREM', DONE, serial) end)
end
local function trim_dead()
  return trim(DEAD, @DEAD_MAX, function(id) remove(id, read(id)) end)
end
local function stand_for(j, serial, pushed)
  for _, earlier in ipairs({j.serial, j.later}) do
    if earlier ~= serial then over(earlier) end
  end
  j.serial, j.pushed, j.later, j.later_pushed = serial, pushed, '', 0
end
local function wait_for(j, serial, pushed)
  if serial == j.serial then return end
  if serial ~= j.later then over(j.later) end
  j.later, j.later_pushed = serial, pushed
end
local function come_back(j)
  if j.later ~= '' then stand_for(j, j.later, j.later_pushed) end
end
local function live() return call('ZCARD', DUE) + call('ZCARD', TAKEN) end
local function keep()
  for _, key in ipairs(KEYS) do
    local left = call('PTTL', key)
    if left == -1 or (left >= 0 and left < @TTL / 2) then call('PEXPIRE', key, @TTL) end
  end
end
";

/// `id`, `serial`, `body`, `kind`, `owner`, `due_in`, `life`, `reason`, `hurries` → 1 queued, or
/// {2 already, 3 dead; serial}, or 0 full.
const PUSH: &str = "\
local id, due = ARGV[1], now + ARGV[6]
local j = read(id)
if j then
  local state, at = where(id)
  if state == 'd' then return {3, j.serial} end
  call('HSETNX', JOBS, id, ARGV[3])
  if state == 't' then
    wait_for(j, ARGV[2], now)
    write(id, j)
  else
    stand_for(j, ARGV[2], now)
    write(id, j)
    if ARGV[9] == '1' then at = math.min(due, at) end
    place(id, DUE, at)
  end
  trim_done()
  keep()
  return {2, ARGV[2]}
end
if live() >= @JOBS_MAX then return 0 end
remove(id)
call('HSET', JOBS, id, ARGV[3])
write(id, {serial = ARGV[2], created = now, pushed = now, deadline = now + ARGV[7], attempts = 0,
  token = '', kind = ARGV[4], worker = '', owner = ARGV[5]})
if ARGV[8] ~= '' then call('HSET', ERRORS, id, ARGV[8]) end
place(id, DUE, due)
keep()
return 1";

/// `worker`, `limit`, `visibility`, `token` → a list of {id, serial, body, kind, owner, attempts,
/// age, life left, error}.
///
/// Times further away than any that is ever set come from a clock that has jumped since.
const TAKE: &str = "\
for _, id in ipairs(call('ZRANGEBYSCORE', DUE, now + @DELAY_MAX + 1, '+inf', 'LIMIT', 0, 1000)) do
  place(id, DUE, now + @DELAY_MAX)
end
local far = now + @VISIBILITY_MAX
for _, id in ipairs(call('ZRANGEBYSCORE', TAKEN, far + 1, '+inf', 'LIMIT', 0, 1000)) do
  place(id, TAKEN, far)
end
local back = call('ZRANGEBYSCORE', TAKEN, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 1000)
for n = 1, #back, 2 do
  local j = read(back[n])
  if j and j.later ~= '' then
    come_back(j)
    write(back[n], j)
  end
  place(back[n], DUE, back[n + 1])
end
local taken, passed, limit = {}, 0, tonumber(ARGV[2])
while #taken < limit do
  local ids = call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', passed, 100)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    if #taken == limit then break end
    local j, body = read(id), call('HGET', JOBS, id)
    if not j or not body then
      remove(id)
    elseif j.owner ~= '' and j.owner ~= ARGV[1] then
      passed = passed + 1
    else
      j.attempts, j.token, j.worker = j.attempts + 1, ARGV[4], ARGV[1]
      write(id, j)
      place(id, TAKEN, now + ARGV[3])
      taken[#taken + 1] = {id, j.serial, body, j.kind, j.owner, j.attempts, now - j.created,
        j.deadline - now, call('HGET', ERRORS, id)}
    end
  end
end
if #taken > 0 then keep() end
return taken";

/// Stands before what only the holder of a receipt may do: `id`, `serial`, `token`.
const IF_MINE: &str = "\
local id = ARGV[1]
local j = read(id)
if not j or j.serial ~= ARGV[2] or j.token ~= ARGV[3] then return 0 end
local function failed(error)
  j.token, j.worker = '', ''
  come_back(j)
  write(id, j)
  call('HSET', ERRORS, id, error)
end
";

/// … `visibility` → 1 or 0.
const EXTEND: &str = "\
place(id, TAKEN, now + ARGV[4])
return 1";

/// … → 1 or 0.
const ACK: &str = "\
remove(id, j)
trim_done()
keep()
return 1";

/// … `due_in`, `error` → 1 or 0.
const RETRY: &str = "\
failed(ARGV[5])
place(id, DUE, now + ARGV[4])
keep()
return 1";

/// … `error` → 0, or 1 and as many more as dead jobs left for it.
const BURY: &str = "\
failed(ARGV[4])
place(id, DEAD, now)
local dropped = trim_dead()
trim_done()
keep()
return 1 + dropped";

/// `worker` → milliseconds, or -1.
const NEXT_DUE: &str = "\
local function first(key)
  local passed = 0
  while true do
    local ids = call('ZRANGE', key, passed, passed + 99, 'WITHSCORES')
    if #ids == 0 then return nil end
    for n = 1, #ids, 2 do
      local j = read(ids[n])
      if not j or j.owner == '' or j.owner == ARGV[1] then return tonumber(ids[n + 1]) end
    end
    passed = passed + 100
  end
end
local due, taken = first(DUE), first(TAKEN)
local at = math.min(due or math.huge, taken or math.huge)
if at == math.huge then return -1 end
return math.min(math.max(at - now, 0), @DELAY_MAX)";

/// → queued, taken, dead, lag.
const STATS: &str = "\
local back = call('ZCOUNT', TAKEN, '-inf', now)
local lag = 0
for _, key in ipairs({DUE, TAKEN}) do
  local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if first[2] then lag = math.max(lag, now - first[2]) end
end
return {call('ZCARD', DUE) + back, call('ZCARD', TAKEN) - back, call('ZCARD', DEAD), lag}";

/// `dead` or `live` → lists of ids.
const IDS: &str = "\
if ARGV[1] == 'dead' then return {call('ZRANGE', DEAD, 0, -1)} end
return {call('ZRANGE', DUE, 0, -1), call('ZRANGE', TAKEN, 0, -1)}";

/// ids → for each, nothing or {state, milliseconds from now, serial, kind, owner, worker,
/// attempts, age, life left, error}.
const DESCRIBE: &str = "\
local answer = {}
for n, id in ipairs(ARGV) do
  local j = read(id)
  answer[n] = false
  if j then
    local state, at = where(id)
    answer[n] = {state, at - now, j.serial, j.kind, j.owner, j.worker, j.attempts,
      now - j.created, j.deadline - now, call('HGET', ERRORS, id)}
  end
end
return answer";

/// `id` → 1 changed, 2 taken, 0 gone.
const RUN_NOW: &str = "\
local id = ARGV[1]
if not read(id) then return 0 end
local state, at = where(id)
if state == 'd' then return 0 end
if state == 't' then return 2 end
place(id, DUE, math.min(at, now))
keep()
return 1";

/// `id` → 1 changed, 0 gone.
const DROP_JOB: &str = "\
local id = ARGV[1]
local j = read(id)
if not j then return 0 end
remove(id, j)
trim_done()
keep()
return 1";

/// `id` → 1 changed, 0 gone, 3 full.
const REQUEUE: &str = "\
local id = ARGV[1]
local j = read(id)
if not j or where(id) ~= 'd' then return 0 end
if live() >= @JOBS_MAX then return 3 end
j.deadline, j.created, j.attempts = now + math.min(j.deadline - j.created, @LIFE_MAX), now, 0
write(id, j)
place(id, DUE, now)
keep()
return 1";

/// Says what is known of one push: {state, attempts, milliseconds from now, serial}, with the
/// states `q`ueued, `t`aken, `d`ead, `f`inished, `o`ther and `u`nknown.
const KNOWN: &str = "\
local function known(id, serial)
  local j = read(id)
  if j and (j.serial == serial or j.later == serial) then
    local state, at = where(id)
    return {state, j.attempts, at - now, serial}
  end
  if j then return {'o', 0, 0, j.serial} end
  if call('ZSCORE', DONE, serial) then return {'f', 0, 0, serial} end
  return {'u', 0, 0, serial}
end
";

/// pairs of `id`, `serial` → a list of what is known.
const REVIEW: &str = "\
local answer = {}
for n = 1, #ARGV, 2 do answer[#answer + 1] = known(ARGV[n], ARGV[n + 1]) end
return answer";

/// `id`, `serial`, `body`, `kind`, `owner`, `due_in`, `life`, `age`, `attempts`, `dead`, `error`,
/// `pushed_ago` → 1 added, 0 full, or what is known.
const RESTORE: &str = "\
local id, serial, due, attempts = ARGV[1], ARGV[2], now + ARGV[6], tonumber(ARGV[9])
local dead = ARGV[10] == '1'
local pushed = now - ARGV[12]
local it = known(id, serial)
if it[1] == 'o' and not dead and not call('ZSCORE', DONE, serial) then
  local j, state = read(id), where(id)
  if math.max(j.pushed, j.later_pushed) < pushed and state ~= 'd' then
    if state == 't' then
      wait_for(j, serial, pushed)
    else
      stand_for(j, serial, pushed)
    end
    write(id, j)
    it = known(id, serial)
  end
end
if it[1] == 'q' then
  local j = read(id)
  if attempts > j.attempts then
    j.attempts, j.token, j.worker = attempts, '', ''
    come_back(j)
    write(id, j)
    call('HSET', ERRORS, id, ARGV[11])
    place(id, DUE, due)
  end
  call('HSETNX', JOBS, id, ARGV[3])
  if dead then
    place(id, DEAD, now)
    trim_dead()
  elseif not call('ZSCORE', DUE, id) and not call('ZSCORE', TAKEN, id) then
    place(id, DUE, due)
  end
  keep()
  return known(id, serial)
end
if it[1] ~= 'u' then return it end
if not dead and live() >= @JOBS_MAX then return 0 end
remove(id)
call('HSET', JOBS, id, ARGV[3])
if ARGV[11] ~= '' then call('HSET', ERRORS, id, ARGV[11]) end
write(id, {serial = serial, created = now - ARGV[8], pushed = pushed, deadline = now + ARGV[7],
  attempts = attempts, token = '', kind = ARGV[4], worker = '', owner = ARGV[5]})
if dead then
  place(id, DEAD, now)
  trim_dead()
else
  place(id, DUE, due)
end
keep()
return 1";

/// triples of `id`, `serial`, `token` → 1.
const FINISH: &str = "\
for n = 1, #ARGV, 3 do
  local id, serial = ARGV[n], ARGV[n + 1]
  local j = read(id)
  if not j or j.serial ~= serial then
    over(serial)
    if j and j.later == serial then
      j.later, j.later_pushed = '', 0
      write(id, j)
    end
  elseif where(id) ~= 't' or j.token == ARGV[n + 2] then
    if j.later == '' then
      remove(id, j)
    else
      j.token, j.worker = '', ''
      come_back(j)
      write(id, j)
      place(id, DUE, now)
    end
  end
end
trim_done()
keep()
return 1";

/// The numbers that stand in the scripts' texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    pub(super) jobs_max: usize,
    pub(super) dead_max: usize,
    pub(super) done_max: usize,
    pub(super) ttl_ms: u128,
    pub(super) done_ttl_ms: u128,
    pub(super) delay_ms_max: u128,
    pub(super) visibility_ms_max: u128,
    pub(super) life_ms_max: u128,
}

impl QueueScripts {
    pub(super) fn new(numbers: Numbers) -> Self {
        let script = |parts: &[&str]| {
            let code = format!("{PRELUDE}{}", parts.concat());
            LeaseScript::new(
                code.replace("@JOBS_MAX", &numbers.jobs_max.to_string())
                    .replace("@DEAD_MAX", &numbers.dead_max.to_string())
                    .replace("@DONE_MAX", &numbers.done_max.to_string())
                    .replace("@DONE_TTL", &numbers.done_ttl_ms.to_string())
                    .replace("@TTL", &numbers.ttl_ms.to_string())
                    .replace("@DELAY_MAX", &numbers.delay_ms_max.to_string())
                    .replace("@VISIBILITY_MAX", &numbers.visibility_ms_max.to_string())
                    .replace("@LIFE_MAX", &numbers.life_ms_max.to_string()),
            )
        };
        Self {
            push: script(&[PUSH]),
            take: script(&[TAKE]),
            extend: script(&[IF_MINE, EXTEND]),
            ack: script(&[IF_MINE, ACK]),
            retry: script(&[IF_MINE, RETRY]),
            bury: script(&[IF_MINE, BURY]),
            next_due: script(&[NEXT_DUE]),
            stats: script(&[STATS]),
            ids: script(&[IDS]),
            describe: script(&[DESCRIBE]),
            run_now: script(&[RUN_NOW]),
            drop_job: script(&[DROP_JOB]),
            requeue: script(&[REQUEUE]),
            review: script(&[KNOWN, REVIEW]),
            restore: script(&[KNOWN, RESTORE]),
            finish: script(&[FINISH]),
        }
    }
}
