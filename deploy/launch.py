"""What the launcher of the Flex Template runs (FLEX_TEMPLATE_PYTHON_PY_FILE). See `pipelines.template`."""

from pipelines import template

template.main()
