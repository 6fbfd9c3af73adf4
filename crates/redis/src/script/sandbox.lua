-- Runs first in each new interpreter: leaves the script the globals that Redis leaves it, no access to the
-- outside, and no function that can run for long without a check of the clock.
local native, keys, argv = ...
local error, type, pcall, tostring, tonumber, setmetatable, rawset, select =
  error, type, pcall, tostring, tonumber, setmetatable, rawset, select
local byte, find, sub, clock = string.byte, string.find, string.sub, os.clock
local fail, next_match, look = native.fail, native.next, native.look

-- A native function that failed returns the mark and a text; raises the error at the caller of the wrapper.
local function results(first, ...)
  if first == fail then error((...), 3) end
  return first, ...
end

local function checked(name)
  local call = native[name]
  return function(...) return results(call(...)) end
end

local redis = native.redis
redis.sha1hex, redis.log, redis.setresp = checked 'sha1hex', checked 'log', checked 'setresp'

redis.pcall = native.call

function redis.call(...)
  local reply = native.call(...)
  if type(reply) == 'table' and reply.err ~= nil then
    -- Position of the caller; empty if this was a tail call.
    local _, place = pcall(error, '', 3)
    reply.place = place
    error(reply, 0)
  end
  return reply
end

function redis.error_reply(text)
  if type(text) ~= 'string' then return { err = 'ERR wrong number or type of arguments' } end
  if byte(text, 1) == 45 then text = sub(text, 2) end
  return { err = find(text, ' ', 1, true) and text or 'ERR ' .. text }
end

function redis.status_reply(text)
  if type(text) ~= 'string' then return { err = 'ERR wrong number or type of arguments' } end
  return { ok = text }
end

function redis.replicate_commands() return true end
function redis.set_repl() end

rawset(_G, 'redis', redis)
rawset(_G, 'cjson', { encode = checked 'encode', decode = checked 'decode', null = native.null })
rawset(_G, 'KEYS', keys)
rawset(_G, 'ARGV', argv)

-- Replaced: the matcher of Lua 5.1 has no bound (ADR 0016).
string.find, string.match = checked 'find', checked 'match'

function string.gmatch(text, pattern)
  if type(text) == 'number' then text = tostring(text) end
  if type(text) ~= 'string' then error("bad argument #1 to 'gmatch' (string expected, got " .. type(text) .. ')', 2) end
  local from, last = 1, #text + 1
  local function step(first, after, ...)
    if first == fail then error(after, 3) end
    if not first then
      from = last + 1
      return nil
    end
    -- `after` is the index of the last character, as in string.find.
    from = after >= first and after + 1 or first + 1
    return ...
  end
  return function()
    if from > last then return nil end
    return step(next_match(text, pattern, from))
  end
end
string.gfind = string.gmatch

local concat, native_gsub = table.concat, checked 'gsub'

local function replaced(text, replacement, is_function, first, last, ...)
  if first == fail then error(last, 4) end
  if not first then return nil end
  local value
  if is_function then value = replacement(...) else value = replacement[(...)] end
  if not value then
    value = sub(text, first, last)
  elseif type(value) ~= 'string' and type(value) ~= 'number' then
    error('invalid replacement value (a ' .. type(value) .. ')', 3)
  end
  return first, last, value
end

function string.gsub(text, pattern, replacement, most)
  local kind = type(replacement)
  if kind == 'string' or kind == 'number' then return native_gsub(text, pattern, replacement, most) end
  if kind ~= 'function' and kind ~= 'table' then
    error("bad argument #3 to 'gsub' (string/function/table expected)", 2)
  end
  if type(text) == 'number' then text = tostring(text) end
  if type(text) ~= 'string' then error("bad argument #1 to 'gsub' (string expected, got " .. type(text) .. ')', 2) end
  most = most == nil and #text + 1 or tonumber(most)
  if not most then error("bad argument #4 to 'gsub' (number expected)", 2) end
  local pieces, size, count, from, copied = {}, 0, 0, 1, 1
  local is_anchored = sub(pattern, 1, 1) == '^'
  while count < most and from <= #text + 1 do
    local first, last, value = replaced(text, replacement, kind == 'function', next_match(text, pattern, from, true))
    if not first then break end
    count = count + 1
    pieces[size + 1], pieces[size + 2] = sub(text, copied, first - 1), value
    size, copied = size + 2, last + 1
    from = last >= first and last + 1 or first + 1
    if is_anchored then break end
  end
  pieces[size + 1] = sub(text, copied)
  return concat(pieces), count
end

-- Lua's string.rep counts to `count` without a check, even for an empty text.
local rep = string.rep
function string.rep(text, count)
  if text == '' and tonumber(count) then return '' end
  return rep(text, count)
end

-- Lua's table.insert loops for long, without an effect, at a position far in front of the first element.
local insert = table.insert
function table.insert(list, ...)
  if select('#', ...) > 1 then
    local position = tonumber((...))
    if position and position < 1 then error("bad argument #2 to 'insert' (position out of bounds)", 2) end
    look()
  end
  return insert(list, ...)
end

-- A comparison in Lua makes the interpreter call the hook, however long the sort takes.
local sort = table.sort
function table.sort(list, less)
  if less == nil then
    sort(list, function(a, b) return a < b end)
  elseif type(less) ~= 'function' then
    error("bad argument #2 to 'sort' (function expected, got " .. type(less) .. ')', 2)
  else
    sort(list, function(a, b)
      local is_less = less(a, b)
      return is_less
    end)
  end
end

local collectgarbage = collectgarbage
function _G.collectgarbage(...)
  look()
  return collectgarbage(...)
end

-- Lua 5.1 overflows for a range from the least to the greatest number (CVE-2025-46817).
local unpack = unpack
function _G.unpack(list, first, last)
  local from = first == nil and 1 or tonumber(first)
  local to = last == nil and type(list) == 'table' and #list or tonumber(last)
  if from and to and (to - from >= 7999 or from < -2 ^ 31 or to >= 2 ^ 31) then
    error('too many results to unpack', 2)
  end
  -- The arguments of unpack count among the 8 000 values that a C function may have.
  if first == nil and last == nil then return unpack(list) end
  return unpack(list, first, last)
end

-- Lua 5.1 does not verify compiled chunks: a forged chunk reaches any memory.
string.dump = nil
local loadstring = native.loadstring
function _G.loadstring(text, name)
  if type(text) ~= 'string' or byte(text, 1) == 27 then return nil, 'only the text of a program can be loaded' end
  local chunk, message = loadstring(text, name)
  if chunk == fail then return nil, message end
  return chunk
end
for _, name in ipairs { 'dofile', 'loadfile', 'load', 'print', 'module', 'require', 'package', 'newproxy', 'coroutine' } do
  _G[name] = nil
end
_G.os = { clock = clock }

setmetatable(_G, {
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
  __newindex = function() error('Attempt to modify a readonly table', 2) end,
  __metatable = false,
})

-- Runs the script. Its error is a value: a text, or a table with `err`.
return pcall
