-- What blocks calls, by scope. `blocks` in names.py says what a block holds.

local BREAKER_FAULTS, FAULTS_APART_MS = 2, 1000  -- faults, and their distance, after which a host or model rests
local PROBE_MS, PROBE_LOOK_MS = 3000, 300  -- unanswered for it, the next call probes; others look again after 1 to 2 x
local BLOCKS_KEPT = 1000   -- jobs may name any number of models and domains that do not exist
local blocks_key = root .. ':blocks'
local any_blocks = redis.call('HLEN', blocks_key) > 0  -- mostly there is none

-- Keeps a block. If there are too many, those go that have ended, or that the next call of the kind brings back.
local function save_block(scope, block)
  local is_new = redis.call('HSET', blocks_key, scope, cmsgpack.pack(block)) > 0
  for other, packed in pairs(is_new and redis.call('HLEN', blocks_key) > BLOCKS_KEPT and read_hash(blocks_key) or {}) do
    local returns = other:find('^unfit:') or other:find('^key_resource:') or cmsgpack.unpack(packed).until_ms <= now
    if returns and other ~= scope then redis.call('HDEL', blocks_key, other) end
  end
end

-- Returns the block of each scope, or false; what has ended is deleted.
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

-- Returns, of the blocks that hold for a call of `tokens`, the one that ends last, or nil; and what this lease is to
-- probe, by scope. While the account does not have the model (`kind` 'unfit'), that counts as if it never did.
-- After the rest of a host or model one lease probes it; for the others it stays blocked, and the block is `probed`.
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
