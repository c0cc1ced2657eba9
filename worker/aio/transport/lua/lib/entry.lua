-- unacked_entry(item, suffix): the tag and the entry of a message in kombu's hash of unacknowledged messages.
-- Returns nil where the item is not a message.

-- Half of a surrogate pair is a character to JSON and to Python, and an error to cjson. The rest of the text is enough.
local function without_surrogates(item)
  return (item:gsub('\\u[dD][89a-fA-F]%x%x', '\\u0020'))
end

local function parse_entry(item, text, suffix)
  local properties = cjson.decode(text).properties
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
