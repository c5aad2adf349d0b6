#include "evaluate/probe_tasks.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

void append(std::vector<int64_t>& out, std::span<const int64_t> more) {
  out.insert(out.end(), more.begin(), more.end());
}

/// A phrase and a key; later the phrase again, and the key is asked for (Mohtashami and Jaggi,
/// arXiv:2305.16300). The phrase is drawn for each sample: nothing but this text can have taught
/// what follows it.
ProbeParts passkey(ProbeDraft draft) {
  constexpr int64_t kPhrase = 4;
  const int64_t key = draft.options.key_tokens;
  auto both = draft.text.distinct(draft.draws, kPhrase + key);
  return {.body = both, .fact = {0, kPhrase + key}, .question = both, .answers = {{kPhrase, key}}};
}

/// Multi-query associative recall (Arora et al., arXiv:2312.04927): pairs of one key and one value,
/// then every key once more in another order, each followed by its value.
ProbeParts mqar(ProbeDraft draft) {
  const int64_t pairs = draft.options.pairs;
  ProbeParts out{.body = draft.text.distinct(draft.draws, 2 * pairs),
                 .fact = {0, 2 * pairs},
                 .question = {},
                 .answers = {}};
  std::vector<int64_t> order(static_cast<size_t>(pairs));
  for (int64_t i = 0; i < pairs; ++i) {
    const auto at = draft.draws.below(static_cast<uint64_t>(i) + 1);
    order[static_cast<size_t>(i)] = order[at];
    order[at] = i;
  }
  for (const int64_t pair : order) {
    append(out.question, std::span(out.body).subspan(static_cast<size_t>(2 * pair), 2));
    out.answers.push_back({std::ssize(out.question) - 1, 1});
  }
  return out;
}

/// A segment of different tokens and, some way on, the segment again: induction heads (Olsson et
/// al., arXiv:2209.11895). Its first token is the question.
ProbeParts copy(ProbeDraft draft) {
  const int64_t segment = draft.options.segment;
  auto tokens = draft.text.distinct(draft.draws, segment);
  return {.body = tokens, .fact = {0, segment}, .question = tokens, .answers = {{1, segment - 1}}};
}

/// Records "open key colon value" one after the other, as many as there is room for; then one of
/// them is asked (Liu et al., arXiv:2307.03172). Keys and values are words over a small alphabet:
/// every token of a key stands in other keys too, and only all of them together tell the record.
ProbeParts kv_retrieval(ProbeDraft draft) {
  constexpr int64_t kAlphabet = 16;
  const int64_t word = draft.options.key_tokens, record = 2 + 2 * word;
  const double keys = std::pow(double{kAlphabet}, static_cast<double>(word));
  const auto most = static_cast<int64_t>(std::min(keys / 2, 1e9));
  const int64_t records = std::clamp(draft.room / record - 1, int64_t{2}, most);
  const auto asked =
      static_cast<int64_t>(std::lround(draft.depth * static_cast<double>(records - 1)));

  auto alphabet = draft.text.distinct(draft.draws, kAlphabet + 2);
  const int64_t open = alphabet[kAlphabet], colon = alphabet[kAlphabet + 1];
  const auto draw_word = [&] {
    std::vector<int64_t> out(static_cast<size_t>(word));
    for (int64_t& token : out) token = alphabet[draft.draws.below(kAlphabet)];
    return out;
  };
  ProbeParts out;
  std::set<std::vector<int64_t>> taken;
  while (std::ssize(taken) < records) {
    const auto key = draw_word();
    if (!taken.insert(key).second) continue;
    out.body.push_back(open);
    append(out.body, key);
    out.body.push_back(colon);
    append(out.body, draw_word());
  }
  out.fact = {asked * record, record};
  append(out.question, std::span(out.body).subspan(static_cast<size_t>(asked * record),
                                                   static_cast<size_t>(record)));
  out.answers = {{record - word, word}};
  return out;
}

constexpr ProbeTask kTasks[] = {
    {"passkey", "a key behind a phrase, hidden in text; the phrase comes again", passkey},
    {"mqar", "pairs of a key and a value, then all keys in another order", mqar},
    {"copy", "a segment of random tokens, text, then the segment again", copy},
    {"kv_retrieval", "the whole text is records of key and value; one is asked for", kv_retrieval},
};

void check(const ProbeTask& task, const ProbeOptions& options, double depth) {
  const auto refuse = [&](const std::string& what, const std::string& remedy) {
    throw Error(ExitCode::kUsage, {what, cat("probe ", task.name), remedy});
  };
  if (options.key_tokens < 1 || options.pairs < 1)
    refuse("no key tokens or no pairs", "give at least 1");
  if (options.segment < 2) refuse(cat("a segment of ", options.segment), "give at least 2 tokens");
  if (!(depth >= 0 && depth <= 1)) refuse(cat("depth ", depth), "give a share, 0 to 1");
}

}  // namespace

std::span<const ProbeTask> probe_tasks() { return kTasks; }

const ProbeTask& probe_task(const std::string& name) {
  const auto* const found = std::ranges::find(kTasks, name, &ProbeTask::name);
  if (found != std::ranges::end(kTasks)) return *found;
  std::vector<std::string> names;
  for (const ProbeTask& task : kTasks) names.emplace_back(task.name);
  throw Error(ExitCode::kUsage,
              {in_quotes(name) + " is no probe", "probe", suggestion(name, names)});
}

ProbeSample make_sample(const ProbeTask& task,
                        const ProbeText& text,
                        const ProbeOptions& options,
                        int64_t length,
                        double depth,
                        uint64_t index) {
  check(task, options, depth);
  std::vector<int64_t> opening;
  if (text.bos_id() >= 0) opening = {text.bos_id()};
  const int64_t room = length - std::ssize(opening);
  Draws draws(options.seed, cat("probe ", task.name), index);
  const ProbeParts parts = task.parts({text, options, room, depth, draws});
  const int64_t space = room - std::ssize(parts.body) - std::ssize(parts.question);
  if (space < 0) {
    throw Error(ExitCode::kUsage,
                {cat("a sequence of ", length, " tokens, at least ", length - space, " are needed"),
                 cat("probe ", task.name),
                 "give a longer one, or fewer key tokens or pairs, or a shorter segment"});
  }
  auto symbols = parts.body;
  append(symbols, parts.question);
  Draws places(options.seed, "probe filler", index);
  const auto filler = text.filler(places, space + parts.fact.count, symbols);

  const auto before = std::lround(depth * static_cast<double>(space));
  const auto text_of = [&](const std::vector<int64_t>& body) {
    auto out = opening;
    append(out, std::span(filler).first(static_cast<size_t>(before)));
    append(out, body);
    append(out, std::span(filler).subspan(static_cast<size_t>(before),
                                          static_cast<size_t>(space - before)));
    append(out, parts.question);
    return out;
  };
  auto without = parts.body;
  std::copy_n(filler.begin() + space, parts.fact.count, without.begin() + parts.fact.first);
  ProbeSample out{.tokens = text_of(parts.body),
                  .control = text_of(without),
                  .answers = parts.answers,
                  .distance = space - before + std::ssize(parts.body) - parts.fact.end()};
  for (TokenSpan& of : out.answers) of.first += length - std::ssize(parts.question);
  return out;
}

}  // namespace kvsmith
