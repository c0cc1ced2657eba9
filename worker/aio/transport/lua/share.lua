-- requires: entry, parked
-- share: keeps the next messages of lists in an order that serves tenants in turn, by what each has used.
--
-- Producers push to a list and workers take from it as always. The messages that are taken next are the window, which
-- this script keeps in fair order. It parks all other messages of each tenant in a sublist of the tenant (see
-- `parked`). So it finds a few messages behind ten thousand of another tenant. A message names its tenant in the header
-- `tenant`; all messages without the header belong to one tenant. If no message has it, the list is left as it is.
--
-- A tenant's time is what it has used; each request counts 1, already while it is in the window. The tenant with the
-- least time comes next. If a tenant is new, or comes back after a while, its time begins BURST below that of the
-- others: so silence earns no more credit than this, but a few messages need not wait for their turn.
--
-- KEYS  1 hash of unacknowledged messages  2 index  3 leases  4... lists
-- ARGV  1 now in seconds since 1970, by the worker's clock, which kombu's visibility timeout uses
--       2 how long a message stays parked if no worker renews it, in seconds  3 '1': with leases
--       4 for how long no other worker needs to look, in milliseconds
-- Returns 3 if it should be called again at once, 2 if messages wait, 1 if they name no tenant, 0 if there are none.
--
-- It keeps these keys beside a list, with the list's name and an ending:
--   .tenants       sorted set: the tenants with a sublist, by their time
--   .tenants.past  sorted set: the times of the other tenants
--   .tenants.memo  hash: `mark`, the tag of the window's newest message; `at`, the time of the tenant that came next;
--                  `charged`, set if times have changed since
--   .tenants.pause while it exists, no worker needs to look
--   .tenant.<id>   a tenant's sublist. The id is a digest, so that the tenant's name is in its messages only.

local WINDOW, CHUNK, BURST, MANY = 128, 128, 16, 32
local PROBED, PROBE_MS, KEPT_MS = 32, '500', 600000
local NOBODY = '-'

-- Returns the text value of a name in a message. Within other texts the quotes would be escaped. Finding the name first
-- is many times faster than a pattern alone.
local function value_of(item, name)
  local _, last = item:find(name, 1, true)
  return last and item:match('^: ?"([^"]+)"', last + 1)
end

local function digest_of(name)
  name = type(name) == 'string' and name:match('^%s*(.-)%s*$') or ''
  return name ~= '' and redis.sha1hex(name):sub(1, 16) or NOBODY
end

local function escaped_tenant(item)
  local is_message, message = pcall(cjson.decode, item)
  return is_message and type(message.headers) == 'table' and message.headers.tenant
end

local digests = {}
local function tenant_of(item)
  local name = value_of(item, '"tenant"')
  if not name then return NOBODY end
  if name:find('\\', 1, true) then return digest_of(escaped_tenant(item)) end
  digests[name] = digests[name] or digest_of(name)
  return digests[name]
end

local function tag_of(item) return item and value_of(item, '"delivery_tag"') end

local function was_redelivered(item)
  local _, last = item:find('"redelivered"', 1, true)
  return last and item:find('^: ?true', last + 1)
end

local function is_named(list)
  for _, first in ipairs({0, -PROBED}) do
    for _, item in ipairs(redis.call('LRANGE', list, first, first + PROBED - 1)) do
      if tenant_of(item) ~= NOBODY then return true end
    end
  end
  return false
end

-- Divides the items that were read by tenant: `front` has the messages that were in the window or came back, `new` the
-- others. Returns the tenants, also by id, and the items that are not messages.
local function part(items, mark)
  local tenants, by_id, others, tags, old = {}, {}, {}, {}, false
  for at, item in ipairs(items) do
    tags[at] = tag_of(item)
    old = old or tags[at] == mark
  end
  for at = #items, 1, -1 do
    local item, id = items[at], tenant_of(items[at])
    if tags[at] then
      local tenant = by_id[id]
      if not tenant then
        tenant = {id = id, front = {}, new = {}, next = 1, stood = 0, count = 0}
        by_id[id], tenants[#tenants + 1] = tenant, tenant
      end
      if old then tenant.stood = tenant.stood + 1 end
      local queue = (old or was_redelivered(item)) and tenant.front or tenant.new
      queue[#queue + 1] = item
      if tags[at] == mark then old = false end
    else
      others[#others + 1] = item
    end
  end
  return tenants, by_id, others
end

-- Adds the tenants with sublists that come next, as many as there is room for.
local function add_sublists(list, tenants, by_id, most)
  local last = math.max(MANY, math.floor(most / 2))
  local reply = redis.call('ZRANGE', list .. '.tenants', 0, last, 'WITHSCORES')
  for at = 1, #reply, 2 do
    local id = reply[at]
    if not by_id[id] then
      tenants[#tenants + 1] = {id = id, time = tonumber(reply[at + 1]), has_sublist = true, stood = 0, count = 0}
    end
  end
end

local function comes_before(one, other)
  if one.time ~= other.time then return one.time < other.time end
  return one.id < other.id
end

-- Gives each tenant its time, without its messages in the window, and sorts the tenants by their times.
-- Returns the least time of all.
local function read_times(list, tenants, at)
  local ids, least = {}, nil
  for number, tenant in ipairs(tenants) do ids[number] = tenant.id end
  local waiting = ids[1] and redis.call('ZMSCORE', list .. '.tenants', unpack(ids)) or {}
  local past = ids[1] and redis.call('ZMSCORE', list .. '.tenants.past', unpack(ids)) or {}
  for number, tenant in ipairs(tenants) do
    local time = tonumber(waiting[number] or past[number] or nil)
    tenant.has_sublist = waiting[number] and true
    tenant.time = time and time - tenant.stood
    if time and (tenant.has_sublist or tenant.stood > 0) then least = math.min(least or tenant.time, tenant.time) end
  end
  at = math.max(at, least or 0)
  local begin = math.max(0, at - BURST)
  for _, tenant in ipairs(tenants) do tenant.time = math.max(begin, tenant.time or begin) end
  table.sort(tenants, comes_before)
  return at
end

-- Adds a tenant's next messages to the chosen ones, and counts them: first those of `front`, then of its sublist, then
-- of `new`.
local function take(list, tenant, count, chosen)
  local before = #chosen
  local function take_read(from, offset)
    while from and from[tenant.next - offset] and #chosen - before < count do
      chosen[#chosen + 1] = from[tenant.next - offset]
      tenant.next = tenant.next + 1
    end
  end
  take_read(tenant.front, 0)
  while tenant.has_sublist and #chosen - before < count do
    tenant.has_sublist = unpark(list .. '.tenant.' .. tenant.id, count - #chosen + before, chosen) > 0
  end
  if tenant.new and not tenant.has_sublist then take_read(tenant.new, #tenant.front) end
  tenant.count = tenant.count + #chosen - before
  return #chosen > before
end

-- Gives turns to tenants, in the order of their times. A turn adds the same to each tenant's time, so the tenants in
-- `again`, which have had a turn, are in order, too. The next turn goes to the first tenant of `tenants` or of `again`.
-- If there are many tenants, a turn is two messages, which costs less.
local function choose(list, tenants, most)
  local chosen, first, again, next_again, a_turn = {}, 1, {}, 1, #tenants > MANY and 2 or 1
  while #chosen < most do
    local new, old = tenants[first], again[next_again]
    local tenant = old and not (new and new.time <= old.time + old.count) and old or new
    if not tenant then break end
    if tenant == new then first = first + 1 else next_again = next_again + 1 end
    if take(list, tenant, a_turn, chosen) then again[#again + 1] = tenant end
  end
  return chosen
end

-- Parks the messages that were read and not chosen.
local function park_rest(list, tenants, others)
  for _, tenant in ipairs(tenants) do
    if tenant.front then
      local sublist, front, new = list .. '.tenant.' .. tenant.id, {}, {}
      for at = #tenant.front, tenant.next, -1 do front[#front + 1] = tenant.front[at] end
      for at = math.max(1, tenant.next - #tenant.front), #tenant.new do new[#new + 1] = tenant.new[at] end
      if front[1] or new[1] then
        for _, item in ipairs(park(sublist, front, true)) do others[#others + 1] = item end
        for _, item in ipairs(park(sublist, new, false)) do others[#others + 1] = item end
        tenant.has_sublist = true
      end
    end
  end
end

local function save_times(list, tenants, at)
  local waiting, past, no_sublist, not_past = {}, {}, {}, {}
  for _, tenant in ipairs(tenants) do
    local was_read, times = tenant.front, tenant.has_sublist and waiting or past
    if was_read or tenant.count > 0 or not tenant.has_sublist then
      times[#times + 1], times[#times + 2] = tenant.time + tenant.count, tenant.id
      if not tenant.has_sublist then no_sublist[#no_sublist + 1] = tenant.id
      elseif was_read then not_past[#not_past + 1] = tenant.id end
    end
  end
  if no_sublist[1] then redis.call('ZREM', list .. '.tenants', unpack(no_sublist)) end
  if not_past[1] then redis.call('ZREM', list .. '.tenants.past', unpack(not_past)) end
  if waiting[1] then redis.call('ZADD', list .. '.tenants', unpack(waiting)) end
  if past[1] then redis.call('ZADD', list .. '.tenants.past', unpack(past)) end
  redis.call('ZREMRANGEBYSCORE', list .. '.tenants.past', '-inf', '(' .. at - BURST)
end

local function save_memo(list, at, newest)
  redis.call('HSET', list .. '.tenants.memo', 'at', at, 'charged', '', 'mark', tag_of(newest) or '')
  redis.call('PEXPIRE', list .. '.tenants.memo', KEPT_MS)
  redis.call('PEXPIRE', list .. '.tenants.past', KEPT_MS)
end

-- Adds messages of the sublists to a window that has become short. No new message has come to the list.
local function extend(list, count, at)
  local tenants = {}
  add_sublists(list, tenants, {}, WINDOW - count)
  local chosen = choose(list, tenants, WINDOW - count)
  save_parked()
  if chosen[1] then redis.call('LPUSH', list, unpack(chosen)) end
  save_times(list, tenants, at)
  save_memo(list, at, chosen[#chosen] or redis.call('LINDEX', list, 0))
end

-- Builds a new window from the messages of the old one, of the list and of the sublists. If no message names a tenant
-- any more, it only forgets the times.
-- Returns how many messages were read.
local function rebuild(list, memo_at, mark, has_sublists)
  local items = redis.call('LRANGE', list, -WINDOW - CHUNK, -1)
  local tenants, by_id, others = part(items, mark)
  if not has_sublists and #tenants == 1 and tenants[1].id == NOBODY then
    redis.call('DEL', list .. '.tenants.memo', list .. '.tenants.past')
    return #items
  end
  add_sublists(list, tenants, by_id, WINDOW)
  local at = read_times(list, tenants, memo_at)
  local chosen = choose(list, tenants, WINDOW)
  park_rest(list, tenants, others)
  save_parked()
  redis.call('LTRIM', list, 0, -#items - 1)
  for number = #chosen, 1, -1 do others[#others + 1] = chosen[number] end
  if others[1] then redis.call('RPUSH', list, unpack(others)) end
  save_times(list, tenants, at)
  save_memo(list, at, chosen[#chosen])
  return #items
end

local function share(list)
  local count = redis.call('LLEN', list)
  local known = redis.call('EXISTS', list .. '.tenants', list .. '.tenants.memo') > 0
  if not known and count == 0 then return 0 end
  -- A full server refuses this command, before anything has changed.
  if not redis.call('SET', list .. '.tenants.pause', '1', 'NX', 'PX', known and ARGV[4] or PROBE_MS) then
    return known and 2 or 1
  end
  if not known and not is_named(list) then return 1 end
  local memo = redis.call('HMGET', list .. '.tenants.memo', 'at', 'mark', 'charged')
  local at, mark, has_sublists = tonumber(memo[1] or 0), memo[2], redis.call('EXISTS', list .. '.tenants') == 1
  if has_sublists then renew_parked() end
  if count == 0 or (tag_of(redis.call('LINDEX', list, 0)) == mark and memo[3] == '') then
    if has_sublists and count < WINDOW / 2 then
      extend(list, count, at)
      -- Workers take messages faster than this script is called.
      if count < WINDOW / 4 then redis.call('PEXPIRE', list .. '.tenants.pause', 5) return 3 end
    end
    return (count > 0 or has_sublists) and 2 or 0
  end
  if count <= rebuild(list, at, mark, has_sublists) then return 2 end
  redis.call('PEXPIRE', list .. '.tenants.pause', 5)
  return 3
end

local keys = {}
for number = 4, #KEYS do keys[#keys + 1], keys[#keys + 2] = KEYS[number], KEYS[number] .. '.tenants' end
if not keys[1] or redis.call('EXISTS', unpack(keys)) == 0 then return 0 end
local most = 0
for number = 4, #KEYS do most = math.max(most, share(KEYS[number])) end
return most
