#pragma once

namespace CLI {
class App;
}

namespace kvsmith {

/// Adds the verb "inspect" below the verb "data".
void add_data_inspect(CLI::App& data);

}  // namespace kvsmith
