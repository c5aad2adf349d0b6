#pragma once

#include <string>

namespace CLI {
class App;
}

namespace kvsmith {

/// Each adds one verb, with its flags, help and action, to the command line. An action throws Error
/// or sets the exit code of a run that ended otherwise than well.
void add_tokenizer(CLI::App& app);
void add_data(CLI::App& app);
void add_data_probes(CLI::App& data);  ///< below the verb "data"
void add_import(CLI::App& app);
void add_convert(CLI::App& app);
void add_train(CLI::App& app, int& exit_code);
void add_evaluate(CLI::App& app);
void add_logits(CLI::App& app);
void add_head_distances(CLI::App& app);
void add_calibrate(CLI::App& app);
void add_generate(CLI::App& app);
void add_chat(CLI::App& app, int& exit_code);
void add_merge(CLI::App& app);
void add_serve(CLI::App& app);
void add_export(CLI::App& app);
void add_fetch(CLI::App& app);
void add_checkpoint(CLI::App& app, int& exit_code);
void add_estimate(CLI::App& app);
void add_speed(CLI::App& app);
void add_report(CLI::App& app);
void add_env(CLI::App& app);
void add_help(CLI::App& app);
void add_version(CLI::App& app);
void add_completion(CLI::App& app);
void add_reference(CLI::App& app);

/// The whole command line.
void add_verbs(CLI::App& app, int& exit_code);

/// Runs the program: parses, acts, and turns every error into one message on stderr and an exit
/// code. Never throws.
int run(int argc, const char* const* argv);

}  // namespace kvsmith
