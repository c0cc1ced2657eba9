-- requires: prelude
-- reloaded: write down that a person had the workers load their keys again.
--
-- ARGV  2 by  3 service  4 how many workers did

local by, service, outcome = unpack(ARGV, 2)
read_clock()
audit('actions', 'reloaded', 'service', service, outcome, 0, by)
