/*
 * session.hpp -- visits to our own tables through SPI: as their owner, with nothing in reach that a user can define.
 *
 * C++ region. Used by api/, engine/ and server/.
 */
#pragma once

#include "pg/guard.hpp"
#include "pg/sql.hpp"

namespace jobqueue {

/* Buffers that this process has looked at so far: what a statement costs, whatever else the machine does. */
int64 buffers_touched() noexcept;

/* The owner of the SQL function that is being called: the extension's owner. */
Oid function_owner(FunctionCallInfo fcinfo);

/* Proof that a Session is under way, and with it the pinned search path. Only Session makes one, and none is copied. */
class Pinned {
public:
	Pinned(const Pinned &) = delete;
	Pinned &operator=(const Pinned &) = delete;

private:
	friend class Session;
	Pinned() noexcept = default;
};

/*
 * One visit: the owner's rights, a pinned search path, settings under which our statements always get the same plans,
 * and an SPI connection. What the statements return lives until the visit ends.
 * After a PgError the destructor leaves the search path and SPI to the abort that must follow.
 */
class Session {
public:
	enum class Writes {
		as_transaction_allows,
		always, /* even if a handler has made its transaction read-only */
	};
	explicit Session(Oid owner, Writes writes = Writes::as_transaction_allows);
	~Session();
	Session(const Session &) = delete;
	Session &operator=(const Session &) = delete;

	/* Is a visit under way? Row triggers on our tables recognize the engine's statements by this. */
	static bool active() noexcept { return depth_ > 0; }
	/* Throws Error if no visit is under way. */
	static Pinned pinned();

private:
	void restore() noexcept;

	static constinit inline int depth_ = 0;
	Oid saved_user_;
	int saved_security_;
	bool saved_read_only_;
	std::array<int, 15> saved_planner_;
	int path_level_ = 0;
	int exceptions_;
};

/* The arguments of a statement. Values are copied into memory that lives as long as the Session. */
class Params {
public:
	static constexpr int capacity = 20;
	Params &add(int64 value) noexcept;
	Params &add(int32 value) noexcept;
	Params &add(int16 value) noexcept;
	Params &add(bool value) noexcept;
	Params &add(std::string_view value);
	Params &add_name(std::string_view value);
	Params &add_time(TimestampTz value) noexcept;
	Params &add_time(const std::optional<TimestampTz> &value) noexcept { return value ? add_time(*value) : add_null(); }
	Params &add(std::span<const int64> values);
	Params &add(std::span<const int32> values);
	Params &add(std::span<const std::string> values);
	Params &add_datum(Datum value, bool isnull) noexcept;
	Params &add_null() noexcept;
	template <typename T> Params &add(const std::optional<T> &value) { return value ? add(*value) : add_null(); }

	Datum *values() noexcept { return values_; }
	const char *nulls() const noexcept { return nulls_; }
	int count() const noexcept { return count_; }

private:
	Datum values_[capacity] = {};
	char nulls_[capacity] = {};
	int count_ = 0;
};

/* What a statement returned. Columns count from 1. Valid until the Session ends. */
class Rows {
public:
	Rows(SPITupleTable *table, uint64 count) noexcept : table_(table), count_(count) {}
	uint64 size() const noexcept { return table_ ? count_ : 0; }
	/* How many rows the statement has changed, whether or not it returns them. */
	uint64 processed() const noexcept { return count_; }
	bool empty() const noexcept { return size() == 0; }
	bool is_null(uint64 row, int column) const noexcept;
	Datum datum(uint64 row, int column) const noexcept; /* 0 for null */
	int64 int64_at(uint64 row, int column) const noexcept { return DatumGetInt64(datum(row, column)); }
	int32 int32_at(uint64 row, int column) const noexcept { return DatumGetInt32(datum(row, column)); }
	int16 int16_at(uint64 row, int column) const noexcept { return DatumGetInt16(datum(row, column)); }
	bool bool_at(uint64 row, int column) const noexcept { return DatumGetBool(datum(row, column)); }
	std::string text_at(uint64 row, int column) const; /* empty for null */
	std::string name_at(uint64 row, int column) const;
	/* The first column of all rows. */
	std::vector<int64> ids() const;
	SPITupleTable *table() const noexcept { return table_; }

private:
	SPITupleTable *table_;
	uint64 count_;
};

/*
 * A statement with its argument types, prepared at first use and kept for the life of the process, always with a
 * generic plan: planning costs more than running. Constant-initialised; text and types live for ever.
 */
class Statement {
public:
	/* Nested loops, over indexes; or a hash of one side, for arrays that are joined with what their ids find. */
	enum class Join { loop, hash };
	template <typename... Types>
	constexpr explicit Statement(const char *text, Types... types) noexcept
		: text_(text), types_{static_cast<Oid>(types)...}, count_(sizeof...(types)) {}
	template <typename... Types>
	constexpr Statement(Join join, const char *text, Types... types) noexcept
		: text_(text), types_{static_cast<Oid>(types)...}, count_(sizeof...(types)), join_(join) {}
	template <size_t size, typename... Types>
	constexpr explicit Statement(const SqlText<size> &sql, Types... types) noexcept : Statement(sql.text, types...) {}
	template <size_t size, typename... Types>
	constexpr Statement(Join join, const SqlText<size> &sql, Types... types) noexcept
		: Statement(join, sql.text, types...) {}

	/*
	 * The text need not qualify built-in names and operators: it is parsed, and where a plan is invalid parsed again,
	 * in here only, and so never without the proof that the search path is pinned. Callers leave the proof to the
	 * default. Throws PgError.
	 */
	Rows run(Params &params, const Pinned &pinned = Session::pinned()) { return execute(params, false, pinned); }
	/*
	 * The same, but reads what is committed by now, also if the transaction reads from an older snapshot; only reads.
	 */
	Rows run_on_latest(Params &params, const Pinned &pinned = Session::pinned());
	const char *text() const noexcept { return text_; }

private:
	Rows execute(Params &params, bool read_only, const Pinned &);

	const char *text_;
	Oid types_[Params::capacity];
	int count_;
	Join join_ = Join::loop;
	SPIPlanPtr plan_ = nullptr;
};

} // namespace jobqueue
