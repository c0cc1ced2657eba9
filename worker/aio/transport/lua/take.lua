-- requires: set_aside, clock, entry
-- take: moves messages from the queues' lists to the hash of unacknowledged messages, in kombu's order: the most
-- urgent priority first, within it the queues in turn.
--
-- The messages are read, recorded as unacknowledged, and only then removed, so that no error in between can lose one.
-- Items that are not messages are set aside. Once all lists are empty, each was read after its last change, so the
-- server reports its next change to this connection (CLIENT TRACKING). A channel that knows which lists are empty
-- requests only the others.
--
-- Delayed messages that are due come before the messages of the list beside them, in the order of their instants. If
-- their queue goes before another queue, they also take that queue's turns, before its messages. Of all channels that
-- wait, one leads each delayed queue: the server reports changes of the next instant only to the leader, except for the
-- first message of an empty queue. So one channel wakes up for one message. If the leader is full or gone, the others
-- find the message at their next sweep.
--
-- The tag of an entry is the message's own tag with a suffix, `@` and hexadecimal digits. A redelivered message gets
-- another entry, so that the worker that had it first can neither put it back nor acknowledge it.
--
-- KEYS  1 hash of unacknowledged messages  2 index  3 leases  4 list of unreadable items
--       5... the queues' lists, priority by priority
--       then, if there are delayed queues: the clock, and for each queue its next instant, its leader, its texts, and
--       the sorted sets beside its lists
-- ARGV  1 the most messages to take, a few hundred  2 now in seconds since 1970  3 how many queues there are
--       4 1 to serve them in turn, 0 in order  5 suffix; its first eight digits name the channel
--       6 lease in seconds, 0 for none  7 how many priorities there are
--       8 for how long a leader may be silent, in milliseconds
--       then for each delayed queue: its number among the queues, from 1, and the number of the queue that it goes
--       before, 0 for none
-- Returns how many items were set aside; for each message the number of its list and the length of its tag in bytes;
--       the tags as one text; the texts of the messages; in how many microseconds this channel should look again, -1
--       if no delayed message waits, -2 if another channel leads or if all due messages are beside lists that are left
--       alone.
--       The reply has few parts, because the client takes as long for a short part as for a long one.

local unacked, index, leases, unreadable = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local limit, now, width, in_turn = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local suffix, lease_s, until_s = ARGV[5], tonumber(ARGV[6]), nil
local rows, silence_ms, delayed = tonumber(ARGV[7]), ARGV[8], (#ARGV - 8) / 2
local last = 4 + width * rows
local texts, sizes, tags, set_aside_count, taken, order = {}, {}, {}, 0, 0, {}
local entries, instants, ends = {}, {}, {}

-- The number of a delayed queue's first key.
local function keys_at(number) return last + 2 + (number - 1) * (3 + rows) end

local function list_at(row, column) return 4 + (row - 1) * width + column end

-- The channel passes this name in place of a list that is left alone.
local function is_open(list) return KEYS[list] ~= unacked .. '.left' end

-- The due messages of the delayed queues, by the number of the list beside them.
local due, looked, now_us = {}, {}, delayed > 0 and clock_us(KEYS[last + 1])
for number = 1, delayed do
  local first, column, before = keys_at(number), tonumber(ARGV[7 + 2 * number]), tonumber(ARGV[8 + 2 * number])
  local next_us = redis.call('GETEX', KEYS[first])
  if next_us and tonumber(next_us) <= now_us then
    looked[#looked + 1] = first
    for row = 1, rows do
      local set, list = KEYS[first + 2 + row], list_at(row, column)
      local now_text = string.format('%.0f', now_us)
      local ids = is_open(list) and redis.call('ZRANGEBYSCORE', set, '-inf', now_text, 'LIMIT', 0, limit)
      if ids and ids[1] then
        due[list] = {set = set, texts = KEYS[first + 2], ids = ids, at = 1, list = list}
        if before > 0 then due[list_at(row, before)] = due[list] end
      end
    end
  end
end

-- One command for all lists: the server counts those that are not empty, and reports to this connection when one
-- changes.
local filled, read = last > 5 and redis.call('EXISTS', unpack(KEYS, 5, last)) or 1, {}
local function tail_of(number)
  local list = read[number]
  if not list then
    if filled == 0 then return false end
    list = {taken = 0, chunk = {}}
    read[number] = list
  end
  if not list.chunk[#list.chunk] and not list.ended then
    local wanted = math.min(limit - taken, 16)
    list.chunk = redis.call('LRANGE', KEYS[number], -list.taken - wanted, -list.taken - 1)
    list.ended = #list.chunk < wanted
    if list.taken == 0 and list.chunk[1] then filled = filled - 1 end
  end
  return list.chunk[#list.chunk] or false
end

-- Returns the next message of a list, or a due message that comes before it, with the set that it is from.
local function head_of(number)
  local from = due[number]
  while from and from.ids[from.at] do
    local item = redis.call('HGET', from.texts, from.ids[from.at])
    if item then return item, from end
    from.at = from.at + 1
  end
  return tail_of(number)
end

for column = 1, width do order[column] = column end
for first = 5, last, width do
  local column = 1
  while taken < limit and column <= width do
    local number = first + order[column] - 1
    local item, from = head_of(number)
    if item and lease_s > 0 and not until_s then
      local clock = redis.call('TIME')
      until_s = string.format('%.3f', clock[1] + clock[2] / 1e6 + lease_s)
    end
    if not item then
      column = column + 1
    else
      local tag, entry = unacked_entry(item, suffix)
      if tag then
        local count = #tags
        instants[2 * count + 1], instants[2 * count + 2] = now, tag
        ends[2 * count + 1], ends[2 * count + 2] = until_s, tag
        entries[2 * count + 1], entries[2 * count + 2] = tag, entry
        local list = from and from.list or number
        texts[count + 1], tags[count + 1], sizes[count + 1] = item, tag, (list - 5) .. ' ' .. #tag
      else
        set_aside(unreadable, item)
        set_aside_count = set_aside_count + 1
      end
      if from then
        from.at = from.at + 1
      else
        local list = read[number]
        list.chunk[#list.chunk] = nil
        list.taken = list.taken + 1
      end
      taken = taken + 1
      if in_turn then table.insert(order, table.remove(order, column)) end
    end
  end
end

-- All messages are recorded before any is removed.
if tags[1] then
  redis.call('ZADD', index, unpack(instants))
  if until_s then redis.call('ZADD', leases, unpack(ends)) end
  redis.call('HSET', unacked, unpack(entries))
end
local emptied = {}
for number, list in pairs(read) do
  if list.taken > 0 then
    redis.call('LTRIM', KEYS[number], 0, -list.taken - 1)
    emptied[#emptied + 1] = KEYS[number]
  end
end
for _, from in pairs(due) do
  if from.at > 1 then
    local ids = {unpack(from.ids, 1, from.at - 1)}
    redis.call('ZREM', from.set, unpack(ids))
    redis.call('HDEL', from.texts, unpack(ids))
    -- `due` may have this set for two lists.
    from.ids, from.at = {}, 1
  end
end
-- After this read, the server reports the next change of these lists.
if taken < limit and emptied[1] then redis.call('EXISTS', unpack(emptied)) end

for _, first in ipairs(looked) do
  local next_us
  for key = first + 3, first + 2 + rows do
    local head = redis.call('ZRANGE', KEYS[key], 0, 0, 'WITHSCORES')[2]
    if head and not (next_us and next_us <= tonumber(head)) then next_us = tonumber(head) end
  end
  if next_us then redis.call('SET', KEYS[first], string.format('%.0f', next_us)) else redis.call('DEL', KEYS[first]) end
end

local wait_us = -1
if taken < limit then
  for number = 1, delayed do
    local first = keys_at(number)
    local next_key, leader_key, name = KEYS[first], KEYS[first + 1], suffix:match('^@%x%x%x%x%x%x%x%x')
    local leader = redis.call('GETEX', leader_key)
    local leads = leader == name and redis.call('PEXPIRE', leader_key, silence_ms)
    if not leader then leads = redis.call('SET', leader_key, name, 'PX', silence_ms) end
    local next_us = redis.call(leads and 'GET' or 'GETEX', next_key)
    local left_us = leads and next_us and tonumber(next_us) - now_us or 0
    if leads and next_us and left_us <= 0 then
      -- The messages that are due already are beside a list that is left alone. Beside the other lists, messages may be
      -- due soon.
      left_us = 0
      if wait_us == -1 then wait_us = -2 end
      for row = 1, rows do
        local open = is_open(list_at(row, tonumber(ARGV[7 + 2 * number])))
        local head = open and redis.call('ZRANGE', KEYS[first + 2 + row], 0, 0, 'WITHSCORES')[2]
        local due_in_us = head and tonumber(head) - now_us or 0
        if due_in_us > 0 and (left_us == 0 or due_in_us < left_us) then left_us = due_in_us end
      end
    end
    if left_us > 0 and (wait_us < 0 or left_us < wait_us) then wait_us = left_us end
    if not leads then
      -- If no message is delayed, the server has to report the first one to each channel, because the leader may be
      -- gone, and sweeps are rare then.
      if not next_us then redis.call('GET', next_key) elseif wait_us == -1 then wait_us = -2 end
    end
  end
end
return {set_aside_count, table.concat(sizes, ' '), table.concat(tags), texts, wait_us}
