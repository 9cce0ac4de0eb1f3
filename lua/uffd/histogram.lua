-- Latency histograms, as region:histogram() and loop:histogram() return them: lists of buckets with a few methods.

---Latencies of faults, from the read of the message to the wake-up: a list of the buckets that are not empty, in the
---order of their bounds. A bound is at most 1/16 more than the smallest value in its bucket.
---@class uffd.Histogram
---@field [integer] uffd.Bucket
---@field count integer faults, of all buckets together
local histogram = {}
histogram.__index = histogram

---@class uffd.Bucket
---@field up_to_ns integer its faults took at most so long; `math.maxinteger` in the last one, which has no bound
---@field count integer faults

---The bound of the bucket that holds a percentile: half of the faults took at most `percentile(50)` ns. 0: no faults.
---@param percent number 0 to 100
---@return integer ns
function histogram:percentile(percent)
  if type(percent) ~= "number" or not (percent >= 0 and percent <= 100) then
    error("histogram:percentile: a percentile is a number from 0 to 100, not " .. tostring(percent), 2)
  end
  local rank, seen = self.count * percent / 100, 0
  for _, bucket in ipairs(self) do
    seen = seen + bucket.count
    if seen > rank or seen == self.count then return bucket.up_to_ns end
  end
  return 0
end

-- Makes a histogram of the core's list of buckets.
return function(buckets)
  local count = 0
  for _, bucket in ipairs(buckets) do count = count + bucket.count end
  buckets.count = count
  return setmetatable(buckets, histogram)
end
