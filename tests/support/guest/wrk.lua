-- wrk counts answers by their status; this also looks at every byte of them.
local length = tonumber(os.getenv("LENGTH"))
local expected = {}
for i = 1, length do expected[i] = string.char((i - 1) % 251) end
expected = table.concat(expected)
local threads = {}

function setup(thread) table.insert(threads, thread) end
function init() good, bad = 0, 0 end
function response(status, headers, body)
    if status == 200 and body == expected then good = good + 1 else bad = bad + 1 end
end
function done(summary, latency)
    local good, bad = 0, 0
    for _, thread in ipairs(threads) do good, bad = good + thread:get("good"), bad + thread:get("bad") end
    local errors = summary.errors
    io.write(string.format('{"good":%d,"bad":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"per_second":%.0f,"median_ms":%.2f}\n',
        good, bad, errors.connect, errors.read, errors.write, errors.timeout, summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3))
end
