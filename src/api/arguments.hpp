/*
 * arguments.hpp -- reading what SQL passes, and returning to it. C++ region; throws Error or PgError.
 */
#pragma once

#include "engine/store/bounds.hpp"

namespace jobqueue {

/*
 * The arguments of a call, by position from 0. "name" is for the error message.
 *
 * Where an argument must not be null, a null means the default that the function's declaration has for it, so that
 * wrappers can pass every argument. Only if there is no such default, it throws 22004.
 */
class Arguments {
public:
	explicit Arguments(FunctionCallInfo fcinfo) noexcept : fcinfo_(fcinfo) {}
	bool is_null(int n) const noexcept {
		return n >= fcinfo_->nargs || (fcinfo_->args[n].isnull && default_at(n) == nullptr);
	}
	Datum datum(int n) const noexcept {
		const Datum *const value = fcinfo_->args[n].isnull ? default_at(n) : &fcinfo_->args[n].value;
		return value ? *value : 0;
	}

	/* Throws 22004 if null, and without a default. From then on the argument is not null. */
	void require(int n, const char *name) const;
	int64 int64_at(int n, const char *name) const;
	int32 int32_at(int n, const char *name) const;
	/* Throws 22004 if null, 22023 if empty, or longer than so many bytes. */
	std::string text_at(int n, const char *name, size_t longest = std::string::npos) const;
	std::optional<std::string> optional_text(int n) const;
	/* Throws 22023 if the text is longer than so many bytes. */
	std::optional<std::string> optional_text(int n, const char *name, size_t longest) const;
	/* A longer text is cut, see bounds::cut(). */
	std::optional<std::string> optional_remark(int n, size_t longest) const;
	/* Throws 22023 if a text or jsonb is longer; it may be null. */
	void check_size(int n, const char *name, size_t longest) const;
	/* The elements of a text[] that is not null; throws 22004 if an element is null. */
	std::vector<std::string> texts_at(int n, const char *name) const;
	/* 0 to 1; throws 22004 if null, 22023 if it is something else. */
	float4 fraction_at(int n) const;
	/* The name of a queue, of 1 to 63 bytes. */
	std::optional<std::string> optional_queue(int n) const;
	/* Throws 22023 if infinite. */
	std::optional<TimestampTz> optional_time(int n, const char *name) const;
	/* Microseconds from now; throws 22023 if negative, or so long that the sum is out of range. */
	std::optional<int64> optional_duration(int n, const char *name) const;
	/* A limit to be set, from 0 (none) to "most"; throws 22023 if it is something else. */
	std::optional<int32> optional_limit(int n, const char *name, int32 most = PG_INT32_MAX) const;
	/* The interval itself; throws like optional_duration(), and 22008 if it is longer than a year. */
	std::optional<Datum> optional_period(int n, const char *name) const;

private:
	struct Default {
		int place;
		Datum value;
	};

	const Datum *default_at(int n) const noexcept {
		for (const Default &known : defaults_)
			if (known.place == n)
				return &known.value;
		return nullptr;
	}

	FunctionCallInfo fcinfo_;
	/* Not written to fcinfo_: the server keeps constants there from one call to the next. */
	mutable std::vector<Default> defaults_;
};

/* Name of the role that calls: inside a SECURITY DEFINER function, its owner. */
std::string caller_name();

/* Sets up a set-returning call that returns all rows at once, and takes these rows. */
class ResultSet {
public:
	enum class Of { bigint, tasks, record };
	ResultSet(FunctionCallInfo fcinfo, Of what);
	void add(int64 value);
	/* A row of jobqueue.tasks. */
	void add_row(Datum composite);
	void add_row(HeapTuple row);
	/* One value for each column of a record. */
	void add_values(std::span<const Datum> values, const bool *nulls);

private:
	ReturnSetInfo *info_;
};

} // namespace jobqueue
