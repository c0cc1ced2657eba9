-- requires: prelude, buckets
-- snapshot: the given records at one instant.
--
-- KEYS  2 … records (hashes)
-- Returns one JSON text: {"now_ms", "skew_ms" (see `read_clock`), "unfit": {account:model: {…}}, "records":
-- [{field: text, "buckets": {…}, "resources": {…}}, …]}. Records that do not exist are empty.

read_clock()
local records, unfit = {}, {}
for index = 2, #KEYS do
  local record, resources = read_hash(KEYS[index]), {}
  local buckets = read_buckets(record.buckets, record.limits)
  buckets.ramp = nil
  for dimension, bucket in pairs(buckets) do
    buckets[dimension] = {limit = bucket.limit, window_ms = bucket.window_ms, remaining = bucket.level}
  end
  for field, packed in pairs(record) do
    if field:sub(1, 2) == 't:' then resources[field:sub(3)], record[field] = cmsgpack.unpack(packed), nil end
  end
  record.buckets, record.resources, record.flying, record.limits = buckets, resources, nil, nil
  records[#records + 1] = record
end
for pair_name, mark in pairs(read_hash(root .. ':unfit')) do unfit[pair_name] = cmsgpack.unpack(mark) end
return cjson.encode({now_ms = now, skew_ms = skew_ms, unfit = unfit, records = records})
