-- counts: trim, then tell how many letters there are.
--
-- ARGV  1 now_ms or ''  2 most letters  3 keep_ms  4 most bytes of all messages
-- Returns {"service|kind", letters, …, "bytes", size}.

trim(clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
return redis.call('HGETALL', KEYS[5])
