-- heap_push(heap, entry), heap_pop(heap): a binary heap of entries {time, id}, the least time first, and of equal times
-- the least id.
local function comes_before(one, other)
  if one[1] ~= other[1] then return one[1] < other[1] end
  return one[2] < other[2]
end

local function heap_push(heap, entry)
  local at = #heap + 1
  while at > 1 do
    local above = math.floor(at / 2)
    if not comes_before(entry, heap[above]) then break end
    heap[at], at = heap[above], above
  end
  heap[at] = entry
end

local function heap_pop(heap)
  local first, entry, at, count = heap[1], heap[#heap], 1, #heap - 1
  heap[count + 1] = nil
  while 2 * at <= count do
    local below = 2 * at
    if below < count and comes_before(heap[below + 1], heap[below]) then below = below + 1 end
    if not comes_before(heap[below], entry) then break end
    heap[at], at = heap[below], below
  end
  if count > 0 then heap[at] = entry end
  return first
end
