-- Writes an entry where another one stands. KEYS: the table's hash and the version, or the entry's own key.
-- ARGV: the id in the hash, what must stand there (without its expiry, 20 digits), what is written, when that is forgotten
-- (Unix milliseconds; 0 = never). Answers 1 if it stood.
local there
if KEYS[2] then there = redis.call('HGET', KEYS[1], ARGV[1]) else there = redis.call('GET', KEYS[1]) end
if not there or string.sub(there, 21) ~= ARGV[2] then return 0 end
if KEYS[2] then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
  redis.call('INCR', KEYS[2])
elseif ARGV[4] ~= '0' then
  redis.call('SET', KEYS[1], ARGV[3], 'PXAT', ARGV[4])
else
  redis.call('SET', KEYS[1], ARGV[3])
end
return 1
