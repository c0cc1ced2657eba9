-- park(sublist, items, in_front), unpark(sublist, count, items), save_parked(): move messages between a list and a
-- tenant's sublist.
--
-- A parked message is an entry of kombu's hash of unacknowledged messages, and has a lease, as if a worker held it. So
-- if no worker renews it, any worker of the queue, of whatever version, puts it back into its list. The sublist holds
-- the tags, each after the length of its message.
local unacked, index, leases = KEYS[1], KEYS[2], KEYS[3]
local now_s, safe_s, has_leases = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local PARKED = '@0'
local clock = redis.call('TIME')
local server_s = clock[1] + clock[2] / 1e6
local until_s = string.format('%.3f', server_s + safe_s)
local entries, instants, ends, gone = {}, {}, {}, {}

-- Parks the items that are messages, and returns the others.
local function park(sublist, items, in_front)
  local refs, others = {}, {}
  for _, item in ipairs(items) do
    local tag, entry = unacked_entry(item, PARKED)
    if tag then
      local count = #entries
      refs[#refs + 1] = #item .. ' ' .. tag
      entries[count + 1], entries[count + 2] = tag, entry
      instants[count + 1], instants[count + 2] = now_s, tag
      ends[count + 1], ends[count + 2] = until_s, tag
    else
      others[#others + 1] = item
    end
  end
  if refs[1] then redis.call(in_front and 'RPUSH' or 'LPUSH', sublist, unpack(refs)) end
  return others
end

-- Adds the sublist's next messages to `items`, `count` at most. A message without an entry was put back into its list.
-- Returns how many messages were added, 0 if the sublist is empty.
local function unpark(sublist, count, items)
  local before = #items
  while #items == before do
    local refs = redis.call('RPOP', sublist, count)
    if not refs then return 0 end
    local tags = {}
    for at, ref in ipairs(refs) do tags[at] = ref:match(' (.+)$') end
    for at, entry in ipairs(redis.call('HMGET', unacked, unpack(tags))) do
      if entry then
        gone[#gone + 1] = tags[at]
        items[#items + 1] = entry:sub(2, 1 + tonumber(refs[at]:match('^%d+')))
      end
    end
  end
  return #items - before
end

-- Records the parked messages, and deletes the entries of the unparked ones.
local function save_parked()
  if gone[1] then
    redis.call('HDEL', unacked, unpack(gone))
    redis.call('ZREM', index, unpack(gone))
    redis.call('ZREM', leases, unpack(gone))
  end
  if entries[1] then
    redis.call('HSET', unacked, unpack(entries))
    redis.call('ZADD', index, unpack(instants))
    if has_leases then redis.call('ZADD', leases, unpack(ends)) end
  end
  entries, instants, ends, gone = {}, {}, {}, {}
end

-- Renews parked messages that have not been renewed for a while.
local function renew_parked()
  for _, tag in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now_s - safe_s / 2, 'LIMIT', 0, 300)) do
    if tag:sub(-#PARKED) == PARKED then
      redis.call('ZADD', index, 'XX', now_s, tag)
      if has_leases then redis.call('ZADD', leases, 'XX', until_s, tag) end
    end
  end
end
