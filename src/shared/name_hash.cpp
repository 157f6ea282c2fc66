/*
 * name_hash.cpp -- see name_hash.hpp.
 */
#include "shared/name_hash.hpp"

#include <bit>

extern "C" {
#include "common/pg_prng.h"
}

namespace jobqueue {

static constinit NameKey key = {};
static constinit bool known = false;

NameKey draw_name_key() noexcept {
	NameKey drawn;
	/* If the machine gives no random numbers, the process's own are used: others do not know them either. */
	if (!pg_strong_random(&drawn, sizeof(drawn)))
		for (uint64 &word : drawn.words)
			word = pg_prng_uint64(&pg_global_prng_state) ^ static_cast<uint64>(GetCurrentTimestamp());
	return drawn;
}

void set_name_key(const NameKey &given) noexcept {
	key = given;
	known = true;
}

namespace {

struct SipHash {
	uint64 v0, v1, v2, v3;

	explicit SipHash(const NameKey &k) noexcept
		: v0(k.words[0] ^ UINT64CONST(0x736f6d6570736575)), v1(k.words[1] ^ UINT64CONST(0x646f72616e646f6d)),
		  v2(k.words[0] ^ UINT64CONST(0x6c7967656e657261)), v3(k.words[1] ^ UINT64CONST(0x7465646279746573)) {}
	void round() noexcept {
		v0 += v1;
		v1 = std::rotl(v1, 13) ^ v0;
		v0 = std::rotl(v0, 32);
		v2 += v3;
		v3 = std::rotl(v3, 16) ^ v2;
		v0 += v3;
		v3 = std::rotl(v3, 21) ^ v0;
		v2 += v1;
		v1 = std::rotl(v1, 17) ^ v2;
		v2 = std::rotl(v2, 32);
	}
	void take(uint64 word) noexcept {
		v3 ^= word;
		round();
		round();
		v0 ^= word;
	}
	uint64 end() noexcept {
		v2 ^= 0xff;
		for (int i = 0; i < 4; i++)
			round();
		return v0 ^ v1 ^ v2 ^ v3;
	}
};

} // namespace

uint64 hash_name(std::string_view name, uint64 seed) noexcept {
	if (!known)
		set_name_key(draw_name_key());
	SipHash hash(key);
	hash.take(seed);
	const char *rest = name.data();
	size_t left = name.size();
	for (; left >= sizeof(uint64); left -= sizeof(uint64), rest += sizeof(uint64)) {
		uint64 word;
		memcpy(&word, rest, sizeof(word));
		hash.take(word);
	}
	/* The last word contains the length, too: so the words of a name are never the beginning of another's. */
	uint64 last = static_cast<uint64>(name.size()) << 56;
	for (size_t i = 0; i < left; i++)
		last |= static_cast<uint64>(static_cast<unsigned char>(rest[i])) << (8 * i);
	hash.take(last);
	const uint64 result = hash.end();
	return result ? result : 1;
}

} // namespace jobqueue
