-- set_aside(list, item): keeps the first 8 KB of an item that is not a message, for the latest 10,000 such items.
-- Without these limits, a producer of such items would fill the server.
local function set_aside(list, item)
  redis.call('LPUSH', list, item:sub(1, 8192))
  redis.call('LTRIM', list, 0, 9999)
end
