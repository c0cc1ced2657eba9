-- set_aside(list, item): keeps an item that is not a message: the latest 10,000, and of each the first 8 KB.
-- Without these limits, a producer of such items would fill the server.
local function set_aside(list, item)
  redis.call('LPUSH', list, item:sub(1, 8192))
  redis.call('LTRIM', list, 0, 9999)
end
