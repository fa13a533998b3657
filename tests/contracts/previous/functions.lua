-- Version N-1, loaded beside today's.
-- commit: a list of units, each all-or-nothing. Scripts do not roll back, so every check precedes every write.
-- ARGV[1] is msgpack: units of {inputs, states, watermarks, writes, outputs, alone}
--   inputs     {stream, group, consumer, ids}        still pending, and mine
--   states     {key, version read, fields}           version unchanged; written with version + 1
--   watermarks {key, field, position}                strictly newer than the last one written
--   writes     {command, key, arguments...}
--   outputs    {stream, data}
-- Reply per unit: OK, LOST, STALE, DUP, NOGROUP. DUP of a unit that stands alone acknowledges its inputs: their
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

redis.register_function('@NAME@', commit)
