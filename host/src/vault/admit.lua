-- Takes every demand of a request or none, as littoral_core::ledger::Ledger::admit does.
-- ARGV: now (0 = the server's clock), lease, lease_ms, then for each key: kind, amount, least, limit, window_ms.
-- Answers {1, amount, remaining, reset_ms, ...} or {0, position, remaining, retry_ms (-1 = unknown), reset_ms}.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local lease, lease_ms = ARGV[2], tonumber(ARGV[3])
local function whole(n) return string.format('%.0f', n) end
local function ceil(a, b) return math.floor((a + b - 1) / b) end
local answer, writes = {1}, {}
for i, key in ipairs(KEYS) do
  local at = 3 + (i - 1) * 5
  local kind, limit, window = ARGV[at + 1], tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local least = math.min(tonumber(ARGV[at + 3]), tonumber(ARGV[at + 2]))
  local wanted = math.min(tonumber(ARGV[at + 2]), limit)
  local amount, left, reset
  if kind == 'concurrency' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now))
    left = limit - redis.call('ZCARD', key)
    if left < 1 then return {0, i - 1, 0, -1, 0} end
    amount, reset = 1, 0
    writes[i] = function()
      redis.call('ZADD', key, whole(now + lease_ms), lease)
      redis.call('PEXPIRE', key, whole(lease_ms + 60000))
    end
  elseif kind == 'budget' then
    left = math.max(limit - tonumber(redis.call('GET', key) or '0'), 0)
    if left < least then return {0, i - 1, left, -1, window} end
    amount, reset = math.min(wanted, left), window
    writes[i] = function()
      redis.call('INCRBY', key, whole(amount))
      if window > 0 then redis.call('PEXPIREAT', key, whole(now + window)) end
    end
  else
    local held = redis.call('HMGET', key, 'debt', 'at')
    local since = tonumber(held[2] or '0')
    local debt = math.max(tonumber(held[1] or '0') - limit * math.max(now - since, 0), 0)
    left = math.floor(math.max(limit * window - debt, 0) / window)
    if left < least then
      local retry = -1
      if least <= limit then retry = ceil(math.max(debt + least * window - limit * window, 0), limit) end
      return {0, i - 1, left, retry, ceil(debt, math.max(limit, 1))}
    end
    amount = math.min(wanted, left)
    debt = debt + amount * window
    reset = ceil(debt, math.max(limit, 1))
    writes[i] = function()
      redis.call('HSET', key, 'debt', whole(debt), 'at', whole(math.max(since, now)))
      redis.call('PEXPIRE', key, whole(window + 1000))
    end
  end
  answer[#answer + 1] = amount
  answer[#answer + 1] = left - amount
  answer[#answer + 1] = reset
end
for _, write in ipairs(writes) do write() end
return answer
