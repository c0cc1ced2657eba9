-- snapshot: the records given, as they are at one instant.
--
-- KEYS  1 inflight (hash)  2 unfit (hash)  3 … records (hashes)
-- ARGV  1 now_ms or ''
-- Returns one JSON text: {"now_ms", "skew_ms" (see `clock`), "inflight": {…}, "unfit": {account:model: {…}}, "records":
-- [{field: text, "buckets": {…}, "topics": {…}}, …]}. A bucket's level is brought up to the instant; records that do
-- not exist are empty.

local now = clock(ARGV[1], KEYS[1])
local function as_map(pairs_list)
  local map = {}
  for place = 1, #pairs_list, 2 do map[pairs_list[place]] = pairs_list[place + 1] end
  return map
end

local records = {}
for place = 3, #KEYS do
  local record, topics = as_map(redis.call('HGETALL', KEYS[place])), {}
  local buckets = {}
  for dimension, bucket in pairs(buckets_of(record.limits)) do
    local left = bucket.log and headroom_of(bucket, now) * bucket.limit or level_at(bucket, now)
    buckets[dimension] = {limit = bucket.limit, window_ms = bucket.window_ms, remaining = left}
  end
  for field, value in pairs(record) do
    if field:sub(1, 2) == 't:' then topics[field:sub(3)], record[field] = cmsgpack.unpack(value), nil end
  end
  record.buckets, record.topics, record.flying, record.limits = buckets, topics, nil, nil
  records[#records + 1] = record
end
local unfit = {}
for pair_name, mark in pairs(as_map(redis.call('HGETALL', KEYS[2]))) do unfit[pair_name] = cmsgpack.unpack(mark) end
local inflight = as_map(redis.call('HGETALL', KEYS[1]))
return cjson.encode({now_ms = now, skew_ms = skew_ms, unfit = unfit, inflight = inflight, records = records})
