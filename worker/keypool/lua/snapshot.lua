-- requires: prelude, buckets
-- snapshot: all blocks and the given records (KEYS from 2 on) at one instant, as JSON; see `Scripts.snapshot`.

local blocks, records = {}, {}
for scope, packed in pairs(read_hash(root .. ':blocks')) do
  blocks[scope] = cmsgpack.unpack(packed)
  if blocks[scope].until_ms == NEVER then blocks[scope].until_ms = -1 end
end
for index = 2, #KEYS do
  local record, buckets = read_hash(KEYS[index]), read_buckets(KEYS[index])
  record.buckets, buckets.ramp, record.latest = buckets, nil, nil
  records[#records + 1] = record
end
return cjson.encode({now_ms = now, redis_ms = real_ms, blocks = blocks, records = records})
