"""The scripts of the transport.

Two move messages between queues and the book of what is being worked on.

kombu keeps that book in two keys: a hash of entries by delivery tag, and an index of when each was
taken. Whoever finds an entry older than the visibility timeout gives its message back. So a message
must be in a list or in the book at every instant, and these scripts are how it changes sides.

A third key is ours, the leases: for each entry the instant at which its worker counts as dead
unless it renews, by the server's clock; 0 for one whose worker has let go of it. A fourth, the
pulse, tells when any worker was last heard of: where that is long ago the server itself was away,
and nobody is given up before all had time to renew.
"""

from typing import Final

from worker.aio.transport.delayed import CLOCK

_SET_ASIDE: Final = """
local function set_aside(list, item)
  redis.call('LPUSH', list, item:sub(1, 8192))
  redis.call('LTRIM', list, 0, 9999)
end
"""
"""Keeps what is no message.

The latest 10,000, of each the first 8 KB, or whoever pushes it fills the server.
"""

TAKE: Final = (
    _SET_ASIDE
    + CLOCK
    + """
local unacked, index, leases, aside = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local most, now, width, in_turn = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local suffix, lease_s, until_s = ARGV[5], tonumber(ARGV[6]), nil
if lease_s > 0 then
  local clock = redis.call('TIME')
  until_s = string.format('%.3f', clock[1] + clock[2] / 1e6 + lease_s)
end
local rows, guard_ms, delayed = tonumber(ARGV[7]), ARGV[8], (#ARGV - 8) / 2
local last = 4 + width * rows
local texts, sizes, tags, aside_count, taken, order = {}, {}, {}, 0, 0, {}
local entries, instants, ends = {}, {}, {}
-- Half of a surrogate pair is a character to JSON and to Python, and an error to cjson. What is around it is enough.
local function plain(item)
  return (item:gsub('\\\\u[dD][89a-fA-F]%x%x', '\\\\u0020'))
end
local function entry_of(item, text)
  local properties = cjson.decode(text or item).properties
  local tag, from = properties.delivery_tag, properties.delivery_info
  assert(type(tag) == 'string')
  tag = (tag:match('^(.+)@%x+$') or tag) .. suffix
  return tag, '[' .. item .. ', ' .. cjson.encode(from.exchange) .. ', ' .. cjson.encode(from.routing_key) .. ']'
end
-- What is due of the delayed queues, by the place of the list beside.
local due, looked, now_us = {}, {}, delayed > 0 and clock_us(KEYS[last + 1])
local function first_of(number) return last + 2 + (number - 1) * (3 + rows) end
for number = 1, delayed do
  local first, column, before = first_of(number), tonumber(ARGV[7 + 2 * number]), tonumber(ARGV[8 + 2 * number])
  local next_us = redis.call('GETEX', KEYS[first])
  if next_us and tonumber(next_us) <= now_us then
    looked[#looked + 1] = first
    for row = 1, rows do
      local set, beside = KEYS[first + 2 + row], 4 + (row - 1) * width + column
      local is_open = KEYS[beside] ~= unacked .. '.left'
      local ids = is_open and redis.call('ZRANGEBYSCORE', set, '-inf', string.format('%.0f', now_us), 'LIMIT', 0, most)
      if ids and ids[1] then
        due[beside] = {set = set, texts = KEYS[first + 2], ids = ids, at = 1, beside = beside}
        if before > 0 then due[beside - column + before] = due[beside] end
      end
    end
  end
end
-- One command for all lists: the server counts those that hold something, and tells this connection when one changes.
local filled, read = last > 5 and redis.call('EXISTS', unpack(KEYS, 5, last)) or 1, {}
local function tail_of(at)
  local list = read[at]
  if not list then
    if filled == 0 then return false end
    list = {taken = 0, chunk = {}}
    read[at] = list
  end
  if not list.chunk[#list.chunk] and not list.ended then
    local wanted = math.min(most - taken, 16)
    list.chunk = redis.call('LRANGE', KEYS[at], -list.taken - wanted, -list.taken - 1)
    list.ended = #list.chunk < wanted
    if list.taken == 0 and list.chunk[1] then filled = filled - 1 end
  end
  return list.chunk[#list.chunk] or false
end
local function next_of(from)
  from.at = from.at + 1
end
local function head_of(at)
  local from = due[at]
  while from and from.ids[from.at] do
    local item = redis.call('HGET', from.texts, from.ids[from.at])
    if item then return item, from end
    next_of(from)
  end
  return tail_of(at)
end
for place = 1, width do order[place] = place end
for first = 5, last, width do
  local place = 1
  while taken < most and place <= width do
    local at = first + order[place] - 1
    local item, from = head_of(at)
    if not item then
      place = place + 1
    else
      local readable, tag, entry = pcall(entry_of, item)
      if not readable then readable, tag, entry = pcall(entry_of, item, plain(item)) end
      if readable then
        local count = #tags
        instants[2 * count + 1], instants[2 * count + 2] = now, tag
        ends[2 * count + 1], ends[2 * count + 2] = until_s, tag
        entries[2 * count + 1], entries[2 * count + 2] = tag, entry
        local list = from and from.beside or at
        texts[count + 1], tags[count + 1], sizes[count + 1] = item, tag, (list - 5) .. ' ' .. #tag
      else
        set_aside(aside, item)
        aside_count = aside_count + 1
      end
      if from then
        next_of(from)
      else
        local list = read[at]
        list.chunk[#list.chunk] = nil
        list.taken = list.taken + 1
      end
      taken = taken + 1
      if in_turn then table.insert(order, table.remove(order, place)) end
    end
  end
end
-- All are entered before any is removed.
if tags[1] then
  redis.call('ZADD', index, unpack(instants))
  if until_s then redis.call('ZADD', leases, unpack(ends)) end
  redis.call('HSET', unacked, unpack(entries))
end
local emptied = {}
for at, list in pairs(read) do
  if list.taken > 0 then
    redis.call('LTRIM', KEYS[at], 0, -list.taken - 1)
    emptied[#emptied + 1] = KEYS[at]
  end
end
for _, from in pairs(due) do
  if from.at > 1 then
    local ids = {unpack(from.ids, 1, from.at - 1)}
    redis.call('ZREM', from.set, unpack(ids))
    redis.call('HDEL', from.texts, unpack(ids))
    from.ids, from.at = {}, 1  -- it may stand in two places
  end
end
if taken < most and emptied[1] then redis.call('EXISTS', unpack(emptied)) end  -- to be told of the next change
for _, first in ipairs(looked) do
  local next_us
  for at = first + 3, first + 2 + rows do
    local head = redis.call('ZRANGE', KEYS[at], 0, 0, 'WITHSCORES')[2]
    if head and not (next_us and next_us <= tonumber(head)) then next_us = tonumber(head) end
  end
  if next_us then redis.call('SET', KEYS[first], string.format('%.0f', next_us)) else redis.call('DEL', KEYS[first]) end
end
local wait_us = -1
if taken < most then
  for number = 1, delayed do
    local first = first_of(number)
    local next_key, guard, name = KEYS[first], KEYS[first + 1], suffix:match('^@%x%x%x%x%x%x%x%x')
    local guarded_by = redis.call('GETEX', guard)
    local is_mine = guarded_by == name and redis.call('PEXPIRE', guard, guard_ms)
    if not guarded_by then is_mine = redis.call('SET', guard, name, 'PX', guard_ms) end
    local next_us = redis.call(is_mine and 'GET' or 'GETEX', next_key)
    local left_us = is_mine and next_us and tonumber(next_us) - now_us or 0
    if is_mine and next_us and left_us <= 0 then
      -- What is due already is in a list's place that is left alone; in the other places something may be due soon.
      left_us = 0
      if wait_us == -1 then wait_us = -2 end
      for row = 1, rows do
        local beside = 4 + (row - 1) * width + tonumber(ARGV[7 + 2 * number])
        local is_open = KEYS[beside] ~= unacked .. '.left'
        local head = is_open and redis.call('ZRANGE', KEYS[first + 2 + row], 0, 0, 'WITHSCORES')[2]
        local due_in_us = head and tonumber(head) - now_us or 0
        if due_in_us > 0 and (left_us == 0 or due_in_us < left_us) then left_us = due_in_us end
      end
    end
    if left_us > 0 and (wait_us < 0 or left_us < wait_us) then wait_us = left_us end
    if not is_mine then
      -- Where nothing is delayed everybody is told of the first one: who guards may be gone, and looks are rare then.
      if not next_us then redis.call('GET', next_key) elseif wait_us == -1 then wait_us = -2 end
    end
  end
end
return {aside_count, table.concat(sizes, ' '), table.concat(tags), texts, wait_us}
"""
)
"""Takes messages in kombu's order: the most urgent priority first, within it the queues in turn.

Messages are read, entered, and only then removed, so that no error in between can lose one. What is
no message is set aside, or it would be found again for ever. Once all lists are empty, each was
read after its last change: that has the server tell this connection (`CLIENT TRACKING`) when one
changes. Whoever knows by those hints which lists hold nothing asks of the others alone.

Delayed messages that are due (see `worker.aio.transport.delayed`) come before those of the list beside, in
the order of their instants; where their queue goes before another, they also take that one's turns
while there are any. Of all channels that wait one guards each delayed queue: it alone is told of
the next instant, and by the server when that changes, but for the first message of an empty queue.
So one wakes up for one message; where that one is full or gone, the others find the message when
they look by themselves.

The tag in the book is the message's own with a suffix, `@` and hexadecimal digits: a message that
comes a second time is another entry, so that who had it first cannot put it back, nor have it
forgotten, in the name of who has it now.

KEYS: the hash, the index, the leases, the list for what is no message; then the queues' lists,
priority by priority; where there are delayed queues the clock, and for each its next instant, its
guard, its texts, the sets of its lists.
ARGV: the most to take, a few hundred; now, in seconds since 1970; how many queues there are; 1 to
serve them in turn, 0 in order; the suffix, eight digits of which name the channel; the lease in
seconds, 0 for none; how many priorities there are; how long a guard may be silent, in milliseconds;
for each delayed queue its place among the queues, counted from 1, and that of the queue that it
goes before, 0 for none.
Gives: how many were set aside; for each message the place of its list and the length of its tag in
bytes; the tags in the book as one text; the texts; in how many microseconds the next message is due
that this channel guards, -1 for none, -2 where others guard one, or one is due in a place that is
left alone. Few parts, because the client takes as long for a short one as for a long one.
"""

GIVE_BACK: Final = (
    _SET_ASIDE
    + """
local before, at, given = ARGV[1] ~= '' and ARGV[1], 2, 0
while at <= #ARGV do
  local tag, text, lists = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local due = true
  if before then
    local lease = redis.call('ZSCORE', KEYS[3], tag)
    due = lease and tonumber(lease) <= tonumber(before)
  end
  if due and redis.call('HEXISTS', KEYS[1], tag) == 1 then
    for list = 1, lists do
      local place = tonumber(ARGV[at + 2 + list])
      if place == 4 then set_aside(KEYS[place], text) else redis.call('RPUSH', KEYS[place], text) end
    end
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('ZREM', KEYS[3], tag)
    given = given + 1
  end
  at = at + 3 + lists
end
return given
"""
)
"""Puts messages back where they are taken next, unless somebody else gave them back already.

KEYS: the hash, the index, the leases, the list for what is no message, then other lists.
ARGV: an instant by which their leases must have ended, or nothing;
then for each message, the one to be taken last first: its tag, its text, how many lists it goes to,
and their places in KEYS, counted from 1. Gives: how many there were.
"""

FORGET: Final = """
redis.call('ZREM', KEYS[2], unpack(ARGV))
redis.call('ZREM', KEYS[3], unpack(ARGV))
return redis.call('HDEL', KEYS[1], unpack(ARGV))
"""
"""Forgets acknowledged messages, all three entries at once.

One without the others would stay for ever.

KEYS: the hash, the index, the leases. ARGV: at most a few hundred tags.
"""

REBOOK: Final = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
"""
"""Replaces an entry, if it is still there.

KEYS: the hash. ARGV: the tag, the entry.
"""

_HEARD: Final = """
local clock = redis.call('TIME')
local now, patience = clock[1] + clock[2] / 1e6, tonumber(ARGV[1])
local heard = redis.call('HMGET', KEYS[1], 'heard', 'hold_until')
local hold_until = tonumber(heard[2] or 0)
if heard[1] and now - tonumber(heard[1]) > patience then hold_until = math.max(hold_until, now + patience) end
redis.call('HSET', KEYS[1], 'heard', string.format('%.3f', now), 'hold_until', string.format('%.3f', hold_until))
"""
"""Notes that a worker was heard of.

After a silence longer than `patience` nobody is given up for as long again.
"""

RENEW: Final = (
    _HEARD
    + """
local until_s = string.format('%.3f', now + tonumber(ARGV[2]))
for at = 4, #ARGV do
  redis.call('ZADD', KEYS[2], 'XX', until_s, ARGV[at])
  redis.call('ZADD', KEYS[3], 'XX', ARGV[3], ARGV[at])
end
"""
)
"""Renews leases, and the instants in kombu's index.

KEYS: the pulse, the leases, the index. ARGV: patience and lease in seconds; now, in seconds since
1970, as kombu's visibility timeout goes by it; the tags.
"""

EXPIRED: Final = (
    _HEARD
    + """
local reply, size = {string.format('%.3f', now)}, 0
local ended = now < hold_until and '0' or reply[1]
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ended, 'LIMIT', 0, tonumber(ARGV[2]))) do
  local entry = redis.call('HGET', KEYS[3], tag)
  if entry then
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = tag, entry, redis.call('ZSCORE', KEYS[2], tag)
    size = size + #entry
    if size > 4e6 then break end
  else
    redis.call('ZREM', KEYS[2], tag)
  end
end
return reply
"""
)
"""Lists what was given up, and forgets leases without an entry (a stock worker gave the message back).

KEYS: the pulse, the leases, the hash. ARGV: patience in seconds; the most to list.
Gives: now; then for each message its tag, its entry, and its lease's end, 0 where its worker had
let go of it.
"""
