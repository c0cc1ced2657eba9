"""The two scripts of the transport. Each moves messages between queues and the book of what is being worked on.

kombu keeps that book in two keys: a hash of entries by delivery tag, and an index of when each was taken. Whoever finds
an entry older than the visibility timeout gives its message back. So a message must be in a list or in the book at
every instant, and these scripts are how it changes sides.
"""

from typing import Final

TAKE: Final = """
local unacked, index, aside = KEYS[1], KEYS[2], KEYS[3]
local most, now, width, in_turn = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local reply, taken, order = {0}, 0, {}
-- Half of a surrogate pair is a character to JSON and to Python, and an error to cjson. What is around it is enough.
local function plain(item)
  return (item:gsub('\\\\u[dD][89a-fA-F]%x%x', '\\\\u0020'))
end
local function entry_of(item, text)
  local properties = cjson.decode(text or item).properties
  local tag, from = properties.delivery_tag, properties.delivery_info
  assert(type(tag) == 'string')
  return tag, '[' .. item .. ', ' .. cjson.encode(from.exchange) .. ', ' .. cjson.encode(from.routing_key) .. ']'
end
for place = 1, width do order[place] = place end
for first = 4, #KEYS, width do
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
        redis.call('HSET', unacked, tag, entry)
        reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = at - 4, tag, item
      else
        redis.call('LPUSH', aside, item)
        reply[1] = reply[1] + 1
      end
      redis.call('RPOP', KEYS[at])
      taken = taken + 1
      if in_turn then table.insert(order, table.remove(order, place)) end
    end
  end
end
if taken < most then
  for at = 4, #KEYS do redis.call('LLEN', KEYS[at]) end
end
return reply
"""
"""Takes messages in kombu's order: the most urgent priority first, within it the queues in turn.

A message is read, entered, and only then removed, so that no error in between can lose it. What is no message is set
aside, or it would be found again for ever. Once all lists are empty, each is read once more: that makes the server tell
this connection (`CLIENT TRACKING`) when one changes.

KEYS: the hash, the index, the list for what is no message; then the queues' lists, priority by priority.
ARGV: the most to take; now, in seconds since 1970; how many queues there are; 1 to serve them in turn, 0 in order.
Gives: how many were set aside; then for each message the place of its list, its tag and its text.
"""

GIVE_BACK: Final = """
local at, given = 1, 0
while at <= #ARGV do
  local tag, text, lists = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  if redis.call('HEXISTS', KEYS[1], tag) == 1 then
    for list = 1, lists do redis.call('RPUSH', KEYS[tonumber(ARGV[at + 2 + list])], text) end
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    given = given + 1
  end
  at = at + 3 + lists
end
return given
"""
"""Puts messages back where they are taken next, unless somebody else gave them back already.

KEYS: the hash, the index, then lists. ARGV: for each message, the one to be taken last first: its tag, its text, how
many lists it goes to, and their places in KEYS, counted from 1. Gives: how many there were.
"""
