-- Tells where the player is at every server step (told.txt), and begins episodes as asked (asked.txt), both in the world's folder.
-- asked.txt: number of the order, seed of the place, time of day in 0..1, heading [rad], half width [nodes] of the ground to have ready.

local folder = minetest.get_worldpath()
local told = io.open(folder .. "/told.txt", "w")
local tick, order, ready, biome = 0, 0, 0, "none"
local changed = {}

function minetest.send_join_message() end
function minetest.send_leave_message() end

local function remember(pos, old)
	local key = minetest.hash_node_position(pos)
	if changed[key] == nil then
		changed[key] = {pos = vector.new(pos), node = old}
	end
end

minetest.register_on_dignode(function(pos, old) remember(pos, old) end)
minetest.register_on_placenode(function(pos, _, _, old) remember(pos, old) return true end)  -- true: nothing is used up

local function undo()
	for _, one in pairs(changed) do
		minetest.set_node(one.pos, one.node)
	end
	changed = {}
	for _, object in pairs(minetest.luaentities) do
		object.object:remove()
	end
end

minetest.register_on_joinplayer(function(player)
	player:hud_set_flags({
		hotbar = false, healthbar = false, breathbar = false, crosshair = true,
		wielditem = false, minimap = false, minimap_radar = false,
	})
	player:get_inventory():set_stack("main", 1, ItemStack("default:wood 99"))
	player:set_physics_override({speed = 0, jump = 0, gravity = 0})
end)

local function find_place(seed)
	local random = PcgRandom(seed)
	for _ = 1, 400 do
		local x, z = random:next(-3000, 3000), random:next(-3000, 3000)
		local y = minetest.get_spawn_level(x, z)
		if y then
			return {x = x, y = y, z = z}
		end
	end
	return {x = 0, y = 20, z = 0}
end

local function on_ground(pos)
	for y = pos.y + 24, pos.y - 24, -1 do
		local node = minetest.get_node_or_nil({x = pos.x, y = y, z = pos.z})
		local what = node and minetest.registered_nodes[node.name]
		if what and what.walkable then
			return {x = pos.x, y = y + 0.6, z = pos.z}
		end
	end
	return pos
end

local function begin(player, number, seed, time, heading, half)
	undo()
	ready = 0
	local pos = find_place(seed)
	minetest.set_timeofday(time)
	player:override_day_night_ratio(time < 0.1 and 0.4 or nil)  -- a night that one sees in
	player:set_physics_override({speed = 0, jump = 0, gravity = 0})
	player:set_pos({x = pos.x, y = pos.y + 1, z = pos.z})
	local low = {x = pos.x - half, y = pos.y - 16, z = pos.z - half}
	local high = {x = pos.x + half, y = pos.y + 32, z = pos.z + half}
	minetest.emerge_area(low, high, function(_, _, left)
		if left > 0 or number ~= order then
			return
		end
		local data = minetest.get_biome_data(pos)
		biome = data and minetest.get_biome_name(data.biome) or "none"
		player:set_pos(on_ground(pos))
		player:set_look_horizontal(heading)
		player:set_look_vertical(0)
		player:set_physics_override({speed = 1, jump = 1, gravity = 1})
		ready = number
	end)
end

local function listen(player)
	local file = io.open(folder .. "/asked.txt", "r")
	if not file then
		return
	end
	local words = {}
	for word in (file:read("*a") or ""):gmatch("%S+") do
		words[#words + 1] = tonumber(word)
	end
	file:close()
	if #words == 5 and words[1] ~= order then
		order = words[1]
		begin(player, unpack(words))
	end
end

minetest.register_globalstep(function()
	local player = minetest.get_connected_players()[1]
	if not player then
		return
	end
	tick = tick + 1
	listen(player)
	local pos, speed = player:get_pos(), player:get_velocity()
	told:write(string.format(
		"%d %d %.4f %.4f %.4f %.5f %.5f %.4f %.4f %.4f %s\n",
		tick, ready, pos.x, pos.y, pos.z, player:get_look_horizontal(), player:get_look_vertical(),
		speed.x, speed.y, speed.z, biome
	))
	told:flush()
end)
