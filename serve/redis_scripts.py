"""What the Redis server does in one step, in Lua, and the keys it is done to.

    towers:<log>            stream of events, or of slates: entry n-0 holds what was logged under number n, and the id its sender gave it
    towers:<log>:number     the last number      towers:<log>:ids   set of ids seen      towers:<log>:of:<user>   list of a user's numbers
    towers:live:<user>      sorted set, all of score 0 and so in order of bytes: timestamp, number, rating, code, item id of each event
    towers:live             sorted set of the users that have one
    towers:shown:<user>     sorted set likewise: timestamp, number, item ids of each slate
    towers:answers:<user>   towers:precomputed:<user>    packed by `serve.packing`
    towers:items            sorted set of item ids by number      towers:items:json   hash of the items
    towers:forgotten        set of fingerprints
    towers:base             hash: which generation of what releases know is read, and of which release it was loaded
    towers:generations      set of the generations that have keys      towers:generation   the last generation
    towers:<generation>:history:<user>   towers:<generation>:fields:<user>   towers:<generation>:users, a sorted set as towers:live
    towers:lock             who is loading or forgetting

Names of keys are made from what other keys hold, and a script touches the keys of many users: so this is for one server (and replicas that
follow it), not for a Redis Cluster. The whole state must fit in its memory; the logs stay until somebody trims the streams.
"""

READ = """
local user, length, since = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local generation = redis.call('HGET', 'towers:base', 'generation')
local base = generation and 'towers:' .. generation
return {
  base and redis.call('GET', base .. ':history:' .. user),
  base and redis.call('GET', base .. ':fields:' .. user),
  redis.call('ZRANGE', 'towers:live:' .. user, -length, -1),
  redis.call('LINDEX', 'towers:events:of:' .. user, -1),
  redis.call('ZRANGEBYLEX', 'towers:shown:' .. user, '[' .. since, '+'),
  redis.call('GET', 'towers:answers:' .. user),
  redis.call('GET', 'towers:precomputed:' .. user)}
"""

_LOG = """
-- Under the next number of a log; nil where the id was seen before.
local function log(name, id, user, told)
  if redis.call('SADD', 'towers:' .. name .. ':ids', id) == 0 then return nil end
  local number = redis.call('INCR', 'towers:' .. name .. ':number')
  redis.call('XADD', 'towers:' .. name, string.format('%.0f-0', number), 'id', id, 'told', told)
  redis.call('RPUSH', 'towers:' .. name .. ':of:' .. user, string.format('%.0f', number))
  return number
end
"""

APPEND = (
    _LOG
    + """
local kept, new = tonumber(ARGV[1]), 0
for at = 2, #ARGV, 5 do
  local id, user, timestamp, seen, told = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local number = log('events', id, user, told)
  if number then
    local live = 'towers:live:' .. user
    -- an event told again (same timestamp, code and item) takes the place of the earlier telling
    for _, earlier in ipairs(redis.call('ZRANGEBYLEX', live, '[' .. timestamp, '(' .. timestamp .. '\\255')) do
      if string.sub(earlier, 21) == string.sub(seen, 5) then redis.call('ZREM', live, earlier) end
    end
    redis.call('ZADD', live, 0, timestamp .. struct.pack('>I8', number) .. seen)
    redis.call('ZREMRANGEBYRANK', live, 0, -kept - 1)
    redis.call('ZADD', 'towers:live', 0, user)
    new = new + 1
  end
end
return new
"""
)

LOG_SLATES = (
    _LOG
    + """
local since = ARGV[1]
for at = 2, #ARGV, 6 do
  local id, user, timestamp, items, keep_ms = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local number = log('slates', id, user, ARGV[at + 5])
  if number and items ~= '' and keep_ms > 0 then
    local shown = 'towers:shown:' .. user
    redis.call('ZREMRANGEBYLEX', shown, '-', '(' .. since)
    redis.call('ZADD', shown, 0, timestamp .. struct.pack('>I8', number) .. items)
    if redis.call('PTTL', shown) < keep_ms then redis.call('PEXPIRE', shown, keep_ms) end
  end
end
"""
)

PUT_ITEMS = """
for at = 1, #ARGV, 2 do
  local number = redis.call('INCR', 'towers:items:number')
  redis.call('ZADD', 'towers:items', number, ARGV[at])
  redis.call('HSET', 'towers:items:json', ARGV[at], ARGV[at + 1])
end
"""

ITEMS_SINCE = """
local found = redis.call('ZRANGEBYSCORE', 'towers:items', '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local items = {}
for at = 1, #found, 2 do
  items[#items + 1] = {found[at + 1], found[at], redis.call('HGET', 'towers:items:json', found[at])}
end
return items
"""

USER_IDS = """
local generation = redis.call('HGET', 'towers:base', 'generation')
return {
  redis.call('ZRANGEBYLEX', 'towers:live', '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2]),
  generation and redis.call('ZRANGEBYLEX', 'towers:' .. generation .. ':users', '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2]) or {}}
"""

FORGET = """
local user = ARGV[1]
local function erase(name)
  local log, numbers = 'towers:' .. name, redis.call('LRANGE', 'towers:' .. name .. ':of:' .. user, 0, -1)
  for _, number in ipairs(numbers) do
    local entry = redis.call('XRANGE', log, number .. '-0', number .. '-0')[1]
    if entry then
      redis.call('SREM', log .. ':ids', entry[2][2])
      redis.call('XDEL', log, number .. '-0')
    end
  end
  redis.call('DEL', log .. ':of:' .. user)
  return #numbers
end
for _, kind in ipairs({'live', 'shown', 'answers', 'precomputed'}) do redis.call('DEL', 'towers:' .. kind .. ':' .. user) end
redis.call('ZREM', 'towers:live', user)
for _, generation in ipairs(redis.call('SMEMBERS', 'towers:generations')) do
  local base = 'towers:' .. generation
  redis.call('DEL', base .. ':history:' .. user, base .. ':fields:' .. user)
  redis.call('ZREM', base .. ':users', user)
end
redis.call('SADD', 'towers:forgotten', ARGV[2])
return {erase('events'), erase('slates')}
"""

FLIP = """
if redis.call('GET', 'towers:lock') ~= ARGV[1] then return 0 end
redis.call('HSET', 'towers:base', 'generation', ARGV[2], 'version', ARGV[3], 'history_length', ARGV[4])
return 1
"""
