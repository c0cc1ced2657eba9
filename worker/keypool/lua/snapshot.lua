-- requires: prelude, buckets
-- snapshot: all blocks and the given records at one instant.
--
-- KEYS  2 … records: of keys, of accounts × models
-- Returns one JSON text: {"now_ms", "skew_ms" (see `read_clock`), "blocks": {scope: {…}} (until_ms is -1 until a person
-- acts), "records": [{field: text, "buckets": {…}}, …]}. Records that do not exist are empty.

read_clock()
local blocks, records = {}, {}
for scope, packed in pairs(read_hash(root .. ':blocks')) do
  blocks[scope] = cmsgpack.unpack(packed)
  if blocks[scope].until_ms == NEVER then blocks[scope].until_ms = -1 end
end
for index = 2, #KEYS do
  local record = read_hash(KEYS[index])
  local buckets = read_buckets(record.buckets)
  buckets.ramp = nil
  for dimension, bucket in pairs(buckets) do
    buckets[dimension] = {limit = bucket.limit, window_ms = bucket.window_ms, remaining = bucket.level}
  end
  record.buckets, record.latest = buckets, nil
  records[#records + 1] = record
end
return cjson.encode({now_ms = now, skew_ms = skew_ms, blocks = blocks, records = records})
