-- For wrk: "post TAG" posts each order for another device; "get FILE" gets the paths in FILE in turn.
local paths, sent, tag = {}, 0, nil
local body = '{"timeoutInSeconds": 14, "parameters": [{"username": "admin"}, {"password": "admin"},'
  .. ' {"vlan": 534}, {"interfaces": [1, 2, 3, 4]}]}'

function init(args)
  wrk.headers["Content-Type"] = "application/json"
  if args[1] == "post" then
    tag = args[2]
  else
    for path in io.lines(args[2]) do paths[#paths + 1] = wrk.format("GET", path) end
  end
end

function request()
  sent = sent + 1
  if tag then return wrk.format("POST", "/api/v1/equipment/cpe/" .. tag .. sent, nil, body) end
  return paths[(sent - 1) % #paths + 1]
end

function done(summary, latency)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, errors.status, broken))
end
