"""The scripts of the transport. Two move messages between queues and the book of what is being worked on.

kombu keeps that book in two keys: a hash of entries by delivery tag, and an index of when each was taken. Whoever finds
an entry older than the visibility timeout gives its message back. So a message must be in a list or in the book at
every instant, and these scripts are how it changes sides.

A third key is ours, the leases: for each entry the instant at which its worker counts as dead unless it renews, by the
server's clock; 0 for one whose worker has let go of it. A fourth, the pulse, tells when any worker was last heard of:
where that is long ago the server itself was away, and nobody is given up before all had time to renew.
"""

from typing import Final

_SET_ASIDE: Final = """
local function set_aside(list, item)
  redis.call('LPUSH', list, item:sub(1, 8192))
  redis.call('LTRIM', list, 0, 9999)
end
"""
"""Keeps what is no message: the latest 10,000, of each the first 8 KB, or whoever pushes it fills the server."""

TAKE: Final = (
    _SET_ASIDE
    + """
local unacked, index, leases, aside = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local most, now, width, in_turn = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local suffix, lease_s, until_s = ARGV[5], tonumber(ARGV[6])
if lease_s > 0 then
  local clock = redis.call('TIME')
  until_s = string.format('%.3f', clock[1] + clock[2] / 1e6 + lease_s)
end
local texts, sizes, tags, aside_count, taken, order = {}, {}, {}, 0, 0, {}
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
for place = 1, width do order[place] = place end
for first = 5, #KEYS, width do
  local place = 1
  while taken < most and place <= width do
    local at = first + order[place] - 1
    local item = redis.call('LINDEX', KEYS[at], -1)
    if not item then
      place = place + 1
    else
      local readable, tag, entry = pcall(entry_of, item)
      if not readable then readable, tag, entry = pcall(entry_of, item, plain(item)) end
      if readable then
        redis.call('ZADD', index, now, tag)
        if until_s then redis.call('ZADD', leases, until_s, tag) end
        redis.call('HSET', unacked, tag, entry)
        texts[#texts + 1], tags[#tags + 1], sizes[#sizes + 1] = item, tag, (at - 5) .. ' ' .. #tag
      else
        set_aside(aside, item)
        aside_count = aside_count + 1
      end
      redis.call('RPOP', KEYS[at])
      taken = taken + 1
      if in_turn then table.insert(order, table.remove(order, place)) end
    end
  end
end
if taken < most then
  for at = 5, #KEYS do redis.call('LLEN', KEYS[at]) end
end
return {aside_count, table.concat(sizes, ' '), table.concat(tags), texts}
"""
)
"""Takes messages in kombu's order: the most urgent priority first, within it the queues in turn.

A message is read, entered, and only then removed, so that no error in between can lose it. What is no message is set
aside, or it would be found again for ever. Once all lists are empty, each is read once more: that makes the server tell
this connection (`CLIENT TRACKING`) when one changes.

The tag in the book is the message's own with a suffix, `@` and hexadecimal digits: a message that comes a second time
is another entry, so that who had it first cannot put it back, nor have it forgotten, in the name of who has it now.

KEYS: the hash, the index, the leases, the list for what is no message; then the queues' lists, priority by priority.
ARGV: the most to take; now, in seconds since 1970; how many queues there are; 1 to serve them in turn, 0 in order; the
suffix; the lease in seconds, 0 for none.
Gives: how many were set aside; for each message the place of its list and the length of its tag in bytes; the tags in
the book as one text; the texts. Few parts, because the client takes as long for a short one as for a long one.
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
then for each message, the one to be taken last first: its tag, its text, how many lists it goes to, and their places in
KEYS, counted from 1. Gives: how many there were.
"""

FORGET: Final = """
redis.call('ZREM', KEYS[2], unpack(ARGV))
redis.call('ZREM', KEYS[3], unpack(ARGV))
return redis.call('HDEL', KEYS[1], unpack(ARGV))
"""
"""Forgets acknowledged messages, all three entries at once: one without the others would stay for ever.

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
"""Notes that a worker was heard of. After a silence longer than `patience` nobody is given up for as long again."""

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

KEYS: the pulse, the leases, the index. ARGV: patience and lease in seconds; now, in seconds since 1970, as kombu's
visibility timeout goes by it; the tags.
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
Gives: now; then for each message its tag, its entry, and its lease's end, 0 where its worker had let go of it.
"""
