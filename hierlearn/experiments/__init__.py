"Experiments of the lessons: settings, stages, evidence; see `hierlearn.runs.REGISTRY`."
