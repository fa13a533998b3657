-- commit: a list of units, each all-or-nothing. Scripts do not roll back, so every check precedes every write.
-- ARGV[1] is msgpack: units of {inputs, states, watermarks, writes, outputs, alone, fence}
--   inputs     {stream, group, consumer, ids}        still pending, and mine
--   states     {key, version read, fields}           version unchanged; written with version + 1
--   watermarks {key, field, position}                strictly newer than the last one written
--   writes     {command, key, arguments...}
--   outputs    {stream, data}
--   fence      {key, token}, or empty                the lease has not been taken over
-- Reply per unit: OK, FENCED, LOST, STALE, DUP, NOGROUP. DUP of a unit that stands alone acknowledges its inputs: their
-- effect is there already. Of several merged into one it says only that one of them repeats.

local function pending_and_mine(input)
  local stream, group, consumer, ids = input[1], input[2], input[3], input[4]
  local reply = redis.pcall('XPENDING', stream, group, ids[1], ids[#ids], 100000, consumer)
  if reply.err then return 'NOGROUP' end
  local mine = {}
  for _, row in ipairs(reply) do mine[row[1]] = true end
  for _, id in ipairs(ids) do
    if not mine[id] then return 'LOST' end
  end
  return 'OK'
end

local function check(unit)
  local fence = unit[7]
  if fence[1] and tonumber(redis.call('HGET', fence[1], 'token') or 0) ~= fence[2] then return 'FENCED' end
  for _, input in ipairs(unit[1]) do
    local status = pending_and_mine(input)
    if status ~= 'OK' then return status end
  end
  for _, state in ipairs(unit[2]) do
    local version = redis.call('HGET', state[1], 'v') or '0'
    if tonumber(version) ~= state[2] then return 'STALE' end
  end
  local newest = {}
  for _, mark in ipairs(unit[3]) do
    local name = mark[1] .. ' ' .. mark[2]
    local position = newest[name] or redis.call('HGET', mark[1], mark[2])
    if position and tonumber(position) >= mark[3] then return 'DUP' end
    newest[name] = mark[3]
  end
  return 'OK'
end

local function acknowledge(inputs)
  for _, input in ipairs(inputs) do
    redis.call('XACK', input[1], input[2], unpack(input[4]))
  end
end

local function write(unit)
  for _, state in ipairs(unit[2]) do
    redis.call('HSET', state[1], 'v', string.format('%.0f', state[2] + 1), unpack(state[3]))
  end
  for _, mark in ipairs(unit[3]) do
    redis.call('HSET', mark[1], mark[2], string.format('%.0f', mark[3]))
  end
  for _, command in ipairs(unit[4]) do redis.call(unpack(command)) end
  for _, output in ipairs(unit[5]) do redis.call('XADD', output[1], '*', 'e', output[2]) end
  acknowledge(unit[1])
end

local function commit(keys, args)
  local statuses = {}
  for number, unit in ipairs(cmsgpack.unpack(args[1])) do
    local status = check(unit)
    if status == 'OK' then
      write(unit)
    elseif status == 'DUP' and unit[6] then
      acknowledge(unit[1])
    end
    statuses[number] = status
  end
  return statuses
end

-- lease: KEYS[1] {owner, token, until_ms}; ARGV owner, ms to hold it from now on, 0 to give it back.
-- Reply: the token, 0 when another owner holds it. Tokens start from the clock, so that a server which lost its data
-- gives out none a second time.
local function lease(keys, args)
  local key, owner, ttl_ms = keys[1], args[1], tonumber(args[2])
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local found = redis.call('HMGET', key, 'owner', 'token', 'until_ms')
  local mine = found[1] == owner
  if ttl_ms == 0 then
    if mine then redis.call('HSET', key, 'owner', '', 'until_ms', 0) end
    return 0
  end
  if not mine and tonumber(found[3] or 0) > now_ms then return 0 end
  local token = tonumber(found[2] or 0)
  if not mine then token = math.max(token + 1, now_ms) end
  redis.call('HSET', key, 'owner', owner, 'token', string.format('%.0f', token),
    'until_ms', string.format('%.0f', now_ms + ttl_ms))
  return token
end

-- take_over: KEYS[1] a stream; ARGV group, consumer. All that is pending becomes this consumer's, whoever read it.
local function take_over(keys, args)
  local cursor = '0-0'
  repeat
    cursor = redis.call('XAUTOCLAIM', keys[1], args[1], args[2], 0, cursor, 'COUNT', 1000, 'JUSTID')[1]
  until cursor == '0-0'
  return 0
end

-- retire: KEYS[1] a stream; ARGV group, ms. In one step with the look, since forgetting a consumer forgets its entries.
local function retire(keys, args)
  local reply = redis.pcall('XINFO', 'CONSUMERS', keys[1], args[1])
  if reply.err then return 0 end
  local retired = 0
  for _, row in ipairs(reply) do
    local consumer = {}
    for i = 1, #row, 2 do consumer[row[i]] = row[i + 1] end
    if consumer.pending == 0 and consumer.idle >= tonumber(args[2]) then
      redis.call('XGROUP', 'DELCONSUMER', keys[1], args[1], consumer.name)
      retired = retired + 1
    end
  end
  return retired
end

redis.register_function('@NAME@', commit)
-- Acknowledging is what lets a full server be trimmed, and a lease must not expire because the server is full.
redis.register_function{function_name = '@NAME@_acknowledge', callback = commit, flags = {'allow-oom'}}
redis.register_function{function_name = '@NAME@_lease', callback = lease, flags = {'allow-oom'}}
redis.register_function{function_name = '@NAME@_take_over', callback = take_over, flags = {'allow-oom'}}
redis.register_function{function_name = '@NAME@_retire', callback = retire, flags = {'allow-oom'}}
