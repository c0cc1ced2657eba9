-- Reads and saves the blocks of scopes. `blocks` in names.py documents the fields of a block.

local BREAKER_FAULTS, FAULTS_APART_MS = 2, 1000  -- after so many faults, at least this far apart, a host or model rests
local PROBE_MS, PROBE_LOOK_MS = 3000, 300  -- then the next lease may probe; other leases look again after 1 to 2 x 300
local BLOCKS_KEPT = 1000   -- bounds the hash, because jobs may name models and domains that do not exist
local blocks_key = root .. ':blocks'
local any_blocks = redis.call('HLEN', blocks_key) > 0  -- mostly false, which saves a command

-- Saves a block. If there are too many, deletes blocks that have ended, or that the next such call would bring back.
local function save_block(scope, block)
  local is_new = redis.call('HSET', blocks_key, scope, cmsgpack.pack(block)) > 0
  for other, packed in pairs(is_new and redis.call('HLEN', blocks_key) > BLOCKS_KEPT and read_hash(blocks_key) or {}) do
    local returns = other:find('^unfit:') or other:find('^key_resource:') or cmsgpack.unpack(packed).until_ms <= now
    if returns and other ~= scope then redis.call('HDEL', blocks_key, other) end
  end
end

-- Returns the block of each scope, or false. Blocks that have ended are deleted.
local function read_blocks(scopes)
  local blocks = redis.call('HMGET', blocks_key, unpack(scopes))
  for index, packed in ipairs(blocks) do
    local block = packed and cmsgpack.unpack(packed)
    local kept = block and (block.faults or max(block.until_ms, (block.fault_ms or 0) + FAULTS_APART_MS) > now)
    if block and not kept then redis.call('HDEL', blocks_key, scopes[index]) end
    blocks[index] = kept and block
  end
  return blocks
end

-- Returns the block that ends last of those for a call of `tokens`, or nil; and the blocks that this lease is to probe,
-- by scope. An `unfit` block counts as endless. After the rest of a host or model, one lease probes it. For other
-- leases it stays blocked, and the returned block is `probed`.
local function read_blocks_of(id, account, model, resource, lease_id, tokens)
  local name, probes, last = account .. ':' .. model, {}, nil
  local scopes = {'unfit:' .. name, 'key_resource:' .. id .. ':' .. resource, 'key:' .. id, 'account:' .. account,
    'account_model:' .. name, 'host', 'model:' .. model, 'person:', 'person:' .. id}
  for index, block in ipairs(any_blocks and read_blocks(scopes) or {}) do
    if block and block.until_ms <= now and (block.faults or 0) >= BREAKER_FAULTS then
      if (block.probe_ms or 0) <= now or block.probe_by == lease_id then probes[scopes[index]] = block
      else
        local look_ms = now + PROBE_LOOK_MS + (tonumber(lease_id:sub(1, 4), 16) or 0) % PROBE_LOOK_MS
        block = {until_ms = min(block.probe_ms, look_ms), reason = block.reason, probed = true}
      end
    end
    if block and block.until_ms > now and tokens >= (block.from_tokens or 0) then
      block.kind = scopes[index]:match('^[%l_]+')
      if block.kind == 'unfit' then block.until_ms = NEVER end
      if not last or block.until_ms > last.until_ms then last = block end
    end
  end
  return last, probes
end

local function note_probes(probes, lease_id)
  for scope, block in pairs(probes) do
    block.probe_ms, block.probe_by = now + PROBE_MS, lease_id
    save_block(scope, block)
  end
end
