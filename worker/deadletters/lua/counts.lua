-- requires: prelude
-- counts: trim, then count the dead letters.
--
-- ARGV  1 now_ms or ''  2 max dead letters  3 keep_ms  4 max bytes of all messages
-- Returns {"service|kind", count, …, "bytes", size}.

trim(clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
return redis.call('HGETALL', KEYS[5])
