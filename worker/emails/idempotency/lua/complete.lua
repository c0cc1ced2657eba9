-- requires: nothing
-- complete: Resend has given its final answer. Replace the request by the result of each accepted email.
--
-- KEYS  1 the request's record  2 … its emails' records (a batch)
-- ARGV  1 how long to keep results, ms  then for each email: content, result (JSON; '' if only this email was refused)
-- Returns nothing.

for i = math.min(2, #KEYS), #KEYS do
  local number = #KEYS == 1 and 0 or i - 2
  local content, result = ARGV[2 + 2 * number], ARGV[3 + 2 * number]
  if result ~= '' then
    -- Delete first: a full Redis rejects a script at its first addition, unless it changed something before.
    redis.call('HDEL', KEYS[i], 'busy_ms')
    redis.call('HSET', KEYS[i], 'content', content, 'result', result)
    redis.call('HDEL', KEYS[i], 'since_ms', 'account', 'key', 'body', 'holder', 'alone', 'batch')
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  elseif redis.call('HGET', KEYS[i], 'batch') == KEYS[1] then
    -- If another request holds the email by now, its record stays: this may be the second answer to the same call.
    redis.call('DEL', KEYS[i])
  end
end
if #KEYS > 1 then redis.call('DEL', KEYS[1]) end
