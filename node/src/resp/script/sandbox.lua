-- Runs first in each fresh interpreter: leaves the script what Redis leaves it, and nothing that reaches outside.
local native, keys, argv = ...
local error, type, pcall, tostring, loadstring, setmetatable, rawset =
  error, type, pcall, tostring, loadstring, setmetatable, rawset
local byte, find, sub, clock = string.byte, string.find, string.sub, os.clock

local redis = native.redis
redis.pcall = native.call

function redis.call(...)
  local reply = native.call(...)
  if type(reply) == 'table' and reply.err ~= nil then
    -- The place of the caller; empty if this was its last call.
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
rawset(_G, 'cjson', native.cjson)
rawset(_G, 'KEYS', keys)
rawset(_G, 'ARGV', argv)

-- Compiled chunks are not checked by Lua 5.1: made by hand, they reach any memory.
string.dump = nil
function _G.loadstring(text, name)
  if type(text) ~= 'string' or byte(text, 1) == 27 then return nil, 'only the text of a program can be loaded' end
  return loadstring(text, name)
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

-- Runs the script. Its error comes as a value: a text, or a table with `err`.
return pcall
