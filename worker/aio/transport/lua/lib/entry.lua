-- unacked_entry(item, suffix): the tag and the entry of a message in kombu's hash of unacknowledged messages.
-- Returns nil if the item is not a message.

-- JSON and Python accept half of a surrogate pair, but cjson raises an error. The rest of the text is enough.
local function without_surrogates(item)
  return (item:gsub('\\u[dD][89a-fA-F]%x%x', '\\u0020'))
end

-- The properties of a message. They are its last part, so they can be decoded without the rest, which may be large.
-- If the last text that looks like their beginning is within another part, the braces after it do not match.
local function properties_of(text)
  local start, at = nil, 0
  repeat
    at = text:find('"properties": {', at + 1, true)
    start = at or start
  until not at
  local is_last, last = pcall(cjson.decode, start and '{' .. text:sub(start) or '')
  if not is_last then last = cjson.decode(text) end
  return last.properties
end

local function parse_entry(item, text, suffix)
  local properties = properties_of(text)
  local tag, route = properties.delivery_tag, properties.delivery_info
  assert(type(tag) == 'string')
  tag = (tag:match('^(.+)@%x+$') or tag) .. suffix
  return tag, '[' .. item .. ', ' .. cjson.encode(route.exchange) .. ', ' .. cjson.encode(route.routing_key) .. ']'
end

local function unacked_entry(item, suffix)
  local is_message, tag, entry = pcall(parse_entry, item, item, suffix)
  if not is_message then is_message, tag, entry = pcall(parse_entry, item, without_surrogates(item), suffix) end
  if is_message then return tag, entry end
end
