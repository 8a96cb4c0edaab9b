-- Corrects grants and frees slots, as littoral_core::ledger::Ledger::settle and release do.
-- ARGV: now (0 = the server's clock), lease, then for each key: kind, granted, actual, limit, window_ms, elapsed_ms.
local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local lease = ARGV[2]
local function whole(n) return string.format('%.0f', n) end
for i, key in ipairs(KEYS) do
  local at = 2 + (i - 1) * 6
  local kind, granted, actual = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local limit, window, elapsed = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  if kind == 'concurrency' then
    redis.call('ZREM', key, lease)
  elseif kind == 'budget' then
    local spent = redis.call('GET', key)
    if spent then
      redis.call('SET', key, whole(math.max(tonumber(spent) + actual - granted, 0)), 'KEEPTTL')
    elseif actual > granted then
      redis.call('SET', key, whole(actual - granted))
      if window > 0 then redis.call('PEXPIREAT', key, whole(now + window)) end
    end
  else
    local held = redis.call('HMGET', key, 'debt', 'at')
    if held[1] then
      local debt = math.max(tonumber(held[1]) - limit * math.max(now - tonumber(held[2]), 0), 0)
      local still_there = math.max(granted * window - limit * elapsed, 0)
      local refund = math.min(math.max((granted - actual) * window, 0), still_there)
      debt = math.max(debt - refund, 0) + math.max((actual - granted) * window, 0)
      redis.call('HSET', key, 'debt', whole(debt), 'at', whole(math.max(tonumber(held[2]), now)))
      redis.call('PEXPIRE', key, whole(math.floor(debt / math.max(limit, 1)) + 1000))
    end
  end
end
return 1
