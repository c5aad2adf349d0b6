#include "tools/verbs.h"

int main(int argc, char** argv) { return kvsmith::run(argc, argv); }
